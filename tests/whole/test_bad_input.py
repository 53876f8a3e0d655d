"""What bad input gets, row by row, from the real commands: pytest tests/whole/test_bad_input.py

A row says what is wrong and the sentence for it, as a user sees it: `...` stands for any words,
PLACE for the folder. Every error comes before the first step, on the CPU.
"""

import gzip
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.faults.processes import run
from tests.support.damage import (
    NO_SPECIAL_TOKENS,
    a_chat_template,
    a_gguf_file,
    a_newer_format,
    a_small_machine,
    a_vocabulary_with_a_hole,
    adapter,
    all_of,
    an_empty_hub,
    changed,
    cut,
    finished,
    flipped,
    folder,
    in_use,
    linked,
    no_gguf,
    no_labels,
    no_memory,
    no_peft,
    no_privileges,
    no_reader,
    no_space,
    not_a_number,
    records,
    removed,
    tensors,
    two_more_tokens,
    unfinished,
    written,
)
from tests.support.tiny import byte_tokenizer, tiny_gpt2

MODEL, DATA, OUT = "--model_name_or_path model", "--train_file a.txt", "--output_dir out"
SIZES = (
    "--block_size 16 --per_device_train_batch_size 2 --max_steps 4 --save_steps 2 --device cpu "
    "--precision fp32"
)
TRAIN = f"{MODEL} {DATA} {OUT} {SIZES}"
GGUF = f"{TRAIN} --model_name_or_path m.gguf"
RESUME = f"{OUT} --resume"
NEW = f"{DATA} {OUT} {SIZES} --model_type"
GENERATE = "--max_new_tokens 3 --seed 1 --device cpu"
ASK = f"{MODEL} {GENERATE} -p ab"

WHITE_SPACE = "has only white space from byte 0 to"
NO_HUB = "is not on this machine, and it cannot be downloaded: no connection to the hub; name a"
WAYS = "go on with --output_dir out --resume, or replace it with --overwrite_output_dir"
OTHER = "--resume with another configuration,"
UNDO = ", undo that or start anew in another --output_dir"
NO_FOLDER = "cannot be made, a.txt is no folder, name another"
DAMAGED = "is damaged, its sha256 is not the one recorded"
# What a run may leave behind that really began, and then failed before it had anything to save.
BEGUN = {
    *("out", "out/.lock", "out/config.yaml", "out/run.json"),
    *("out/metrics.jsonl", "out/samples.jsonl"),
}


@dataclass(frozen=True)
class Row:
    """What is wrong, the command, and the sentence it gets: of the error, or in the output."""

    name: str
    flags: str
    says: str
    files: Callable[[Path], object] = lambda place: None
    """What is done to the folder first; what it returns is kept until the command has ended."""
    inside: Callable[[], None] | None = None
    """What is done to the process first."""
    status: int = 1
    began: bool = False
    input: bytes = b""
    notes: str = ""
    """What standard error says where the status is no error."""


# --- the rows

TRAIN_USAGE = {
    "--block_size 1": "--block_size is 1, give a number >= 2",
    "--block_size x": "argument --block_size/--block-size: invalid int value: 'x', see --help",
    "--per_device_train_batch_size 0": "--per_device_train_batch_size is 0, give a number >= 1",
    "--per_device_eval_batch_size 0": "--per_device_eval_batch_size is 0, give a number >= 1",
    "--gradient_accumulation_steps 0": "--gradient_accumulation_steps is 0, give a number >= 1",
    "--learning_rate -1": "--learning_rate is -1.0, give a number >= 0",
    "--learning_rate nan": "--learning_rate is nan, give a number >= 0",
    "--learning_rate inf": "--learning_rate is inf, give a number <= 1000",
    "--learning_rate 1e300": "--learning_rate is 1e+300, give a number <= 1000",
    "--optimizer adam": "argument --optimizer: invalid choice: 'adam' (choose from ...), see "
    "--help",
    "--optimizer sgd": "--optimizer sgd has no default rate, give --learning_rate, say 0.1",
    "--optimizer adafactor --adam_beta2 0.9": "--adam_beta2 is of adamw, leave it out with "
    "--optimizer adafactor",
    "--optimizer adafactor --fsdp": "--fsdp cannot divide what adafactor keeps, use --optimizer "
    "adamw",
    "--weight_decay -0.1": "--weight_decay is -0.1, give a number >= 0",
    "--weight_decay nan": "--weight_decay is nan, give a number >= 0",
    "--adam_beta1 1": "--adam_beta1 is 1.0, give a number < 1",
    "--adam_beta1 -0.1": "--adam_beta1 is -0.1, give a number >= 0",
    "--adam_beta2 1": "--adam_beta2 is 1.0, give a number < 1",
    "--adam_beta2 nan": "--adam_beta2 is nan, give a number >= 0",
    "--adam_epsilon 0": "--adam_epsilon is 0.0, give a number >= 1e-30",
    "--adam_epsilon 1e-46": "--adam_epsilon is 1e-46, give a number >= 1e-30",  # 0 in fp32
    "--adam_epsilon inf": "--adam_epsilon is inf, give a number <= 1",
    "--dropout 1": "--dropout is 1.0, give a number < 1",
    "--lora_r 0": "--lora_r is 0, give a number >= 1",
    "--lora_r 4 --lora_alpha 0": "--lora_alpha is 0, give a number >= 1",
    "--lora_r 4 --lora_dropout 1": "--lora_dropout is 1.0, give a number < 1",
    "--lora_r 4 --fsdp": "--lora_r cannot be divided among processes yet, leave out --fsdp",
    "--lora_alpha 8": "--lora_alpha is for a LoRA adapter, add --lora_r 8",
    "--lora_dropout 0.1": "--lora_dropout is for a LoRA adapter, add --lora_r 8",
    "--lora_target_modules c_attn": "--lora_target_modules is for a LoRA adapter, add --lora_r 8",
    "--merge_lora": "--merge_lora is for a LoRA adapter, add --lora_r 8",
    "--warmup_steps -1": "--warmup_steps is -1, give a number >= 0",
    "--warmup_ratio 1": "--warmup_ratio is 1.0, give a number < 1",
    "--max_steps 0": "--max_steps is 0, give a number >= 1",
    "--num_train_epochs 0": "--num_train_epochs is 0.0, give a number > 0",
    "--num_train_epochs nan": "--num_train_epochs is nan, give a number > 0",
    "--num_train_epochs 1e308": "--num_train_epochs is 1e+308, give a number <= 1000000",
    "--logging_steps 0": "--logging_steps is 0, give a number >= 1",
    "--eval_steps 0": "--eval_steps is 0, give a number >= 1",
    "--save_steps 0": "--save_steps is 0, give a number >= 1",
    "--save_total_limit 1": "--save_total_limit is 1, give a number >= 2",
    "--max_grad_norm 0": "--max_grad_norm 0 would train nothing; inf turns clipping off",
    "--max_grad_norm nan": "--max_grad_norm is nan, give a number > 0",
    "--max_train_samples 0": "--max_train_samples is 0, give a number >= 1",
    "--validation_split_percentage 100": "--validation_split_percentage is 100.0, give a number "
    "< 100",
    "--preprocessing_num_workers 99999": "--preprocessing_num_workers is 99999, give a number "
    "<= 1024",
    "--seed -1": "--seed is -1, give a number >= 0",
    "--seed 9223372036854775808": "--seed is 9223372036854775808, give a number < "
    "9223372036854775808",
    "--precision fp8": "argument --precision: invalid choice: 'fp8' (choose from ...), see --help",
    "--precision int8": "argument --precision: invalid choice: 'int8' (choose from ...), "
    "see --help",
    "--sneed 1": "no flag --sneed, did you mean --seed?",
    "--config gone.yaml": "no recipe or file gone.yaml, recipes are quickstart, wikitext2",
    "--config a.txt": "a.txt is no recipe, write lines of `name: value`",
    "--model_type gpt2": "--model_name_or_path and --model_type exclude each other, give one",
    "--config_overrides n_layer=2": "--config_overrides is for a new model, add --model_type",
    "--dataset_name x": "--dataset_name and --train_file exclude each other, give one",
    "--prompt_column q": "--prompt_column and --completion_column go together, give both",
    "--prompt_column q --completion_column a --text_column t": "--text_column is for texts, leave "
    "it out or --prompt_column",
    "--train_on question": "argument --train_on/--train-on: invalid choice: 'question' (choose "
    "from ...), see --help",
    "--encoding klingon": "--encoding klingon is none that Python knows; try cp1252 or utf-16",
    "--encoding base64": "--encoding base64 is none that Python knows; try cp1252 or utf-16",
    "--deduplicate --row_separator none": "--deduplicate and --row_separator none exclude each "
    "other, leave out one",
    "--deduplicate --streaming": "--deduplicate and --streaming exclude each other, leave out one",
    "--resume": "--resume finds no run in out, name --output_dir",
    "--resume a.txt": "--resume a.txt is no checkpoint of a run, name one as "
    "OUTPUT_DIR/checkpoint-500",
}

GENERATE_USAGE = {
    "--temperature -1": "--temperature is -1.0, give a number >= 0",
    "--temperature nan": "--temperature is nan, give a number >= 0",
    "--temperature inf": "--temperature is inf, give a number <= 1000",
    "--top_p 0": "--top_p is 0.0, give a number > 0",
    "--top_p 1.1": "--top_p is 1.1, give a number <= 1",
    "--top_p nan": "--top_p is nan, give a number > 0",
    "--top_k -1": "--top_k is -1, give a number >= 0",
    "--batch_size 0": "--batch_size is 0, give a number >= 1",
    "--num_return_sequences 0": "--num_return_sequences is 0, give a number >= 1",
    "--num_return_sequences 2 -i": "--num_return_sequences cannot be combined with -i, use it with "
    "--prompt or --prompt_file",
    "--json -i": "--json cannot be combined with -i, use it with --prompt or --prompt_file",
    "--num_return_sequences 2 --greedy": "--num_return_sequences 2 would give the same text each "
    "time, as greedy generation draws nothing: leave out one of the two",
    "--top_k 1.5": "argument --top_k/--top-k: invalid int value: '1.5', see --help",
    "--max_new_tokens 0": "--max_new_tokens is 0, give a number >= 1",
    f"--max_new_tokens 1{30 * '0'}": f"--max_new_tokens is 1{30 * '0'}, give a number <= 10000000",
    "--repetition_penalty 0": "--repetition_penalty is 0.0, give a number >= 0.001",
    "--repetition_penalty -1": "--repetition_penalty is -1.0, give a number >= 0.001",
    "--repetition_penalty nan": "--repetition_penalty is nan, give a number >= 0.001",
    "--repetition_penalty 1e-300": "--repetition_penalty is 1e-300, give a number >= 0.001",
    "--seed -1": "--seed is -1, give a number >= 0",
    "-p": "argument -p/--prompt: expected one argument, see --help",
    "-p caf\udce9": "--prompt 'caf\\udce9' is not UTF-8, convert it",
}

COMMAND_USAGE = {
    "": "the following arguments are required: COMMAND, see --help",
    "tran": "argument COMMAND: invalid choice: 'tran' (choose from ...), see --help",
    "train --seed -1": "--seed is -1, give a number >= 0",
    "verify-resume --steps 0": "--steps is 0, give a number >= 1",
    "verify-resume --resume": "--resume is for train; ...",
}

CORPUS = [
    Row("missing", f"{TRAIN} --train_file gone.txt", "no file PLACE/gone.txt, check the path"),
    Row("glob", f"{TRAIN} --train_file 'z*'", "no file PLACE/z*, check the path"),
    Row("under a file", f"{TRAIN} --train_file a.txt/b", "no file PLACE/a.txt/b, check the path"),
    Row("held out", f"{TRAIN} --validation_file b", "no file PLACE/b, check the path"),
    Row(
        "folder",
        f"{TRAIN} --train_file model",
        "PLACE/model/config.json line 1 is no JSON, Expecting property name enclosed in double "
        "quotes (column 2), correct it",
    ),
    Row(
        "not readable",
        TRAIN,
        "PLACE/a.txt cannot be read, Permission denied, give another",
        files=lambda place: (place / "a.txt").chmod(0),
        inside=no_privileges,
    ),
    Row(
        "links in a circle",
        TRAIN,
        "PLACE/a.txt cannot be read, Too many levels of symbolic links, give another",
        files=all_of(removed("a.txt"), lambda place: (place / "a.txt").symlink_to("a.txt")),
    ),
    Row("0 bytes", TRAIN, "PLACE/a.txt is empty, give a file with text", written("a.txt", "")),
    Row("a device", f"{TRAIN} --train_file /dev/zero", "/dev/zero is empty, give a file with text"),
    Row(
        "white space",
        f"{TRAIN} --validation_split_percentage 0",
        f"PLACE/a.txt {WHITE_SPACE} 9, give a file with text",
        written("a.txt", " \n\n  \t \n "),
    ),
    Row(
        "byte order mark",
        f"{TRAIN} --validation_split_percentage 0",
        f"PLACE/a.txt {WHITE_SPACE} 3, give a file with text",
        written("a.txt", b"\xef\xbb\xbf"),
    ),
    Row(
        "white space held out",
        TRAIN,
        "PLACE/a.txt has only white space from byte 953 to 1003, give a file with text",
        written("a.txt", "a" * 900 + "\n" * 103),
    ),
    Row(
        "one word to hold out of",
        TRAIN,
        "PLACE/a.txt has no line or word to hold out, name --validation_file or set "
        "--validation_split_percentage 0",
        written("a.txt", "word"),
    ),
    Row(
        "not UTF-8",
        TRAIN,
        "PLACE/a.txt is not UTF-8, byte 3 is 0xe9, it looks like cp1252: try --encoding cp1252",
        written("a.txt", b"caf\xe9 au lait " * 40),
    ),
    Row(
        "binary",
        TRAIN,
        "PLACE/a.txt is binary or UTF-16, byte 4 is 0x00, give a file of text, or its --encoding",
        written("a.txt", b"\x7fELF\0\1\2\3\n" * 40),
    ),
    Row(
        "UTF-16",
        TRAIN,
        "PLACE/a.txt is binary or UTF-16, byte 1 is 0x00, give a file of text, or its --encoding",
        written("a.txt", "valid as UTF-8, and silently".encode("utf-16-le") * 40),
    ),
    Row(
        "not of the encoding",
        f"{TRAIN} --encoding cp1252",
        "PLACE/a.txt is not CP1252, byte 2 is 0x81, give its true --encoding",
        written("a.txt", b"ab\x81" * 40),
    ),
    Row(
        "packed, cut off",
        TRAIN.replace("a.txt", "a.gz"),
        "PLACE/a.gz cannot be unpacked, Compressed file ended before the end-of-stream marker was "
        "reached: it is damaged or no .gz file",
        written("a.gz", gzip.compress(b"text " * 400)[:30]),
    ),
    Row(
        "packed, but another kind",
        TRAIN.replace("a.txt", "a.xz"),
        "PLACE/a.xz cannot be unpacked, ...: it is damaged or no .xz file",
        written("a.xz", gzip.compress(b"text " * 400)),
    ),
    Row(
        "a folder without texts",
        TRAIN.replace("a.txt", "photos"),
        "PLACE/photos has no file that ends in .txt .text .md .markdown .rst .org .tex .jsonl "
        ".ndjson .json .csv .parquet: name the files, such as 'photos/*'",
        folder("photos"),
    ),
    Row(
        "all files empty",
        f"{TRAIN} --train_file b.txt",
        "PLACE/a.txt is empty, give a file with text",
        all_of(written("a.txt", ""), written("b.txt", "")),
    ),
    Row(
        "some weights",
        f"{TRAIN} --train_file b.txt:0.5",
        "--train_file a.txt has no weight but others have, give each one: a.txt:1",
    ),
    Row(
        "weight 0",
        TRAIN.replace("a.txt", "a.txt:0"),
        "--train_file a.txt:0 has the weight 0, give one above 0",
    ),
    Row(
        "a corpus twice",
        f"{TRAIN} --train_file a.txt:1".replace("a.txt ", "a.txt:0.5 "),
        "--train_file names a corpus twice, give it one weight",
    ),
    Row(
        "a weight too small",
        f"{TRAIN} --train_file b.txt:1".replace("a.txt ", "a.txt:0.000001 "),
        "the weight of corpus 1 is so small that an epoch of ... samples has none of it, give a "
        "larger one",
        written("b.txt", "some words\n" * 90),
    ),
    Row(
        "weights and a part",
        f"{TRAIN} --max_train_samples 5".replace("a.txt", "a.txt:1"),
        "--max_train_samples is for one corpus, not for several with weights: --max_steps makes "
        "the run shorter",
    ),
    Row(
        "weights and a stream",
        f"{TRAIN} --streaming".replace("a.txt", "a.txt:1"),
        "--streaming reads one corpus, leave out the weights of --train_file",
    ),
    Row(
        "columns of a text",
        f"{TRAIN} --prompt_column q --completion_column a",
        "a.txt is a text without columns, leave out --prompt_column",
    ),
    Row(
        "rows of one token",
        f"{TRAIN} --no_packing --row_separator none",
        "no row of the text has two tokens, give longer rows",
        written("a.txt", "a\nb\n" * 40),
    ),
    Row(
        "split of the built-in text",
        f"{MODEL} {OUT} --dataset_name python-reference --dataset_split test",
        "python-reference has no test, give --dataset_split train",
    ),
    Row(
        "data set unknown here",
        f"{MODEL} {OUT} --dataset_name nonsense",
        f"data set nonsense {NO_HUB} folder, or --train_file",
    ),
    Row(
        "folder without data",
        f"{MODEL} {OUT} --dataset_name model",
        "data set model cannot be read, ...",
    ),
    Row(
        "fewer tokens than a block",
        f"{TRAIN} --validation_split_percentage 0",
        "6 tokens in 1 blocks to train on; ...; that is less than one block of 16 tokens",
        written("a.txt", "short"),
        status=0,
    ),
]

JSON = TRAIN.replace("a.txt", "a.jsonl")
ASKED = '{"role": "user", "content": "Hi"}'
ANSWERED = '{"role": "assistant", "content": "Hello"}'


def chats(*turns):
    """A file of good conversations and, last, this one."""
    talks = [f"{ASKED}, {ANSWERED}"] * 30 + [", ".join(turns)]
    return written("a.jsonl", "".join(f'{{"messages": [{talk}]}}\n' for talk in talks))


CHATS = [
    Row(
        "no answer",
        JSON,
        "PLACE/a.jsonl line 31 has no answer to learn, no message of the role assistant after "
        f"another: [{ASKED}]; leave it out",
        chats(ASKED),
    ),
    Row(
        "an answer to nothing",
        JSON,
        "PLACE/a.jsonl line 31 has no answer to learn, no message of the role assistant after "
        f"another: [{ANSWERED}]; leave it out",
        chats(ANSWERED),
    ),
    Row(
        "an unknown role",
        JSON,
        "PLACE/a.jsonl line 31 has a message of the role 'bob', give one of system, developer, "
        "user, assistant, tool, human, gpt, chatgpt, model, function_call, observation",
        chats('{"role": "bob", "content": "Hi"}', ANSWERED),
    ),
    Row(
        "content that is no text",
        JSON,
        "PLACE/a.jsonl line 31 has a message whose content is 5, write a text",
        chats(ASKED, '{"role": "assistant", "content": 5}'),
    ),
    Row(
        "a part that is no text",
        JSON,
        'PLACE/a.jsonl line 31 has a message with a part that is no text, {"type": "image"}',
        chats('{"role": "user", "content": [{"type": "image"}]}', ANSWERED),
    ),
    Row(
        "no list of messages",
        JSON,
        'PLACE/a.jsonl line 2 has no list of messages, write {"messages": [{"role": "user", '
        '"content": "..."}, {"role": "assistant", ...}]}',
        written("a.jsonl", f'{{"messages": [{ASKED}, {ANSWERED}]}}\n{{"messages": "Hi"}}\n'),
    ),
    Row(
        "an empty answer",
        JSON,
        "a conversation has an empty answer, or one that the chat template does not write, such as "
        'tool_calls; leave it out: {"messages": [' + ASKED + ", ...",
        chats(ASKED, '{"role": "assistant", "content": ""}'),
    ),
    Row(
        "a template that takes no system message",
        JSON,
        'the chat template does not take [{"role": "system", "content": "Be kind."}, '
        f"{ASKED}], System role not supported",
        all_of(
            chats('{"role": "system", "content": "Be kind."}', ASKED, ANSWERED),
            a_chat_template(
                "{% if messages[0]['role'] == 'system' %}"
                "{{ raise_exception('System role not supported') }}{% endif %}"
                "{% for m in messages %}{{ m['content'] }}{% endfor %}"
            ),
        ),
    ),
    Row(
        "answers that are cut off",
        f"{JSON} --no_packing",
        "in no conversation an answer begins within --block_size 16 tokens, give a larger one",
        chats(ASKED, ANSWERED),
    ),
    Row(
        "conversations in one text",
        f"{JSON} --row_separator none",
        "--row_separator none is for the lines of one text, not for conversations",
        chats(ASKED, ANSWERED),
    ),
    Row(
        "conversations and texts",
        f"{JSON} --train_file a.txt",
        "there are both texts and conversations: make them two corpora with a weight each, "
        "--train_file notes.txt:0.5 chats.jsonl:0.5, and say what to evaluate on with "
        "--validation_file, or set --validation_split_percentage 0",
        chats(ASKED, ANSWERED),
    ),
    Row(
        "both in a file",
        JSON,
        "PLACE/a.jsonl line 2 has no list of conversations, write ...",
        written("a.jsonl", f'{{"messages": [{ASKED}, {ANSWERED}]}}\n{{"text": "Hi"}}\n'),
    ),
    Row(
        "a column that is not there",
        f"{JSON} --prompt_column q --completion_column a",
        "PLACE/a.jsonl line 1 has no column a; its columns: q",
        written("a.jsonl", '{"q": "Hi"}\n'),
    ),
    Row(
        "a question that is no text",
        f"{JSON} --prompt_column q --completion_column a",
        "PLACE/a.jsonl line 1 has no text in its column q, but 5, correct it",
        written("a.jsonl", '{"q": 5, "a": "Hello"}\n'),
    ),
]

CSV = TRAIN.replace("a.txt", "a.csv")
NOT_STRINGS = "no strings in its column text, name another --text_column"
RECORDS = [
    Row(
        "bad line",
        JSON,
        "PLACE/a.jsonl line 32 is no JSON, Expecting value (column 10), correct it",
        records("", '{"text": }'),
    ),
    Row(
        "cut off",
        JSON,
        "PLACE/a.jsonl line 31 is no JSON, Unterminated string starting at (column 10), correct it",
        records('{"text": "some'),
    ),
    Row(
        "field missing",  # silently a blank text, if others have it
        JSON,
        "PLACE/a.jsonl line 31 has no column text; its columns: title, story; add for example "
        "--text_column story",
        records('{"title": "a", "story": "b"}'),
    ),
    Row("field not text", JSON, f"PLACE/a.jsonl line 31 has {NOT_STRINGS}", records('{"text": 5}')),
    Row(
        "--text_column",
        f"{JSON} --text_column story",
        "PLACE/a.jsonl line 1 has no column story; its columns: text; add for example "
        "--text_column text",
        records(),
    ),
    Row(
        "no object",
        JSON,
        'PLACE/a.jsonl line 31 is "text", write {"text": "..."}',
        records('"text"'),
    ),
    Row(
        "half a character",
        JSON,
        "PLACE/a.jsonl line 31 has half a character, \\ud83d, correct it",
        records('{"text": "\\ud83d"}'),
    ),
    Row(
        "records not UTF-8",
        JSON,
        "PLACE/a.jsonl is not UTF-8, byte 13 is 0xe9, it looks like cp1252: try --encoding cp1252",
        written("a.jsonl", b'{"text": "caf\xe9"}\n'),
    ),
    Row(
        "no records",
        JSON,
        'PLACE/a.jsonl has no records, write lines such as {"text": "..."}',
        written("a.jsonl", "\n\n"),
    ),
    Row(
        "blank records",
        JSON,
        "the text has 0 tokens, give one of at least 2",
        written("a.jsonl", '{"text": " "}\n' * 30),
    ),
    Row(
        "too few to hold out",
        JSON,
        "5 percent of 1 rows cannot be held out, name --validation_file or set "
        "--validation_split_percentage 0",
        written("a.jsonl", '{"text": "a b c"}'),
    ),
    Row(
        "array",
        TRAIN.replace("a.txt", "a.json"),
        f"PLACE/a.json record 2 has {NOT_STRINGS}",
        written("a.json", '[{"text": "a"},\n{"text": 5}]'),
    ),
    Row(
        "csv of other length",
        CSV,
        "a.csv cannot be read as csv, ...Expected 1 fields in line 3, saw 2, correct it",
        written("a.csv", "text\na\nb,c\n"),
    ),
    Row(
        "csv without rows",
        CSV,
        "a.csv has no records, give a file with at least one",
        written("a.csv", "text\n"),
    ),
    Row("csv of numbers", CSV, f"a.csv has {NOT_STRINGS}", written("a.csv", "text\n1\n2\n")),
    Row(
        "csv not UTF-8",
        CSV,
        "PLACE/a.csv is not UTF-8, byte 128 is 0xe9, it looks like cp1252: try --encoding cp1252",
        written("a.csv", b"text\n" + b"abc\n" * 30 + b"caf\xe9\n"),
    ),
    Row(
        "no parquet",
        TRAIN.replace("a.txt", "a.parquet"),
        "a.parquet cannot be read as parquet, ..., correct it",
        written("a.parquet", "nonsense"),
    ),
]

SETTINGS = [
    Row(
        "over the positions",
        f"{TRAIN} --block_size 65",
        "--block_size 65 is over the model's window, at most 64",
    ),
    Row(
        "block of 2, packed",
        f"{TRAIN} --block_size 2",
        "--block_size 2 is too short, at least 3 to pack",
    ),
    Row(
        "warm-up longer than the run",
        f"{TRAIN} --warmup_steps 5",
        "--warmup_steps 5 is more than the run's 4 steps, give fewer or --warmup_ratio",
    ),
    Row(
        "fp16 on a CPU",
        f"{TRAIN} --fp16",
        "precision fp16 is not supported on cpu, use bf16 or fp32",
    ),
    Row("no CUDA", f"{TRAIN} --device cuda", "--device cuda is not there, use auto or cpu"),
    Row("no cuda:7", f"{TRAIN} --device cuda:7", "--device cuda:7 is not there, use auto or cpu"),
    Row("no device", f"{TRAIN} --device gpu", "--device gpu is no device, use auto, cpu or cuda"),
    Row(
        "device of no use",
        f"{TRAIN} --device meta",
        "--device meta is not supported, use auto, cpu or cuda",
    ),
    Row(
        "every label masked",
        f"{TRAIN} --validation_split_percentage 0",
        "every label of the step is masked, there is nothing to learn from: samples [...]",
        inside=no_labels,
        began=True,
    ),
    Row(
        "out of memory",
        TRAIN,
        "out of memory..., give --per_device_train_batch_size 1 --gradient_accumulation_steps 2...",
        inside=no_memory,
        began=True,
    ),
    Row(
        "a machine that is too small",
        TRAIN,
        "a step needs 1 MiB more than the model itself, and this machine has 0 MiB left: give "
        "--per_device_train_batch_size 1 --gradient_accumulation_steps 2...",
        inside=a_small_machine,
    ),
    Row(
        "huge numbers that are harmless",
        f"{TRAIN} --save_steps 1{30 * '0'} --max_train_samples 1{30 * '0'} "
        f"--gradient_accumulation_steps 1{30 * '0'} --per_device_train_batch_size 1{30 * '0'}",
        "saved to out",
        status=0,
    ),
    Row("nobody reads what a run says", TRAIN, "", inside=no_reader, status=0),
]

MODELS = [
    Row("no such folder", f"{TRAIN} --model_name_or_path ./mdoel", "no folder .../mdoel"),
    Row(
        "hub unreachable",
        f"{TRAIN} {MODEL}-x",
        f"model-x {NO_HUB} folder, or gpt2-mini, which is built in",
    ),
    Row(
        "unknown on the hub",
        f"{TRAIN} {MODEL}-x",
        "model-x is no folder here, and cannot be loaded from the hub, ...model-x...",
        inside=an_empty_hub,
    ),
    Row(
        "model is a file",
        f"{TRAIN} --model_name_or_path a.txt",
        "tokenizer PLACE/a.txt cannot be loaded, it is a file, name the folder it is in, or a "
        ".gguf file",
    ),
    Row("no GGUF file there", GGUF, "no file PLACE/m.gguf, check the path"),
    Row(
        "GGUF of 0 bytes",
        GGUF,
        "tokenizer PLACE/m.gguf cannot be loaded, it has 0 bytes, it is no GGUF file",
        written("m.gguf", ""),
    ),
    Row(
        "GGUF that is text",
        GGUF,
        "tokenizer PLACE/m.gguf cannot be loaded, it is no GGUF file, it does not begin with GGUF",
        written("m.gguf", "some words of a text, and no model"),
    ),
    Row(
        "GGUF cut off",
        GGUF,
        "tokenizer PLACE/m.gguf cannot be loaded, it is cut off or damaged: its tensor ... ends at "
        "byte ..., the file has 40000",
        all_of(a_gguf_file(), cut("m.gguf", 40_000)),
    ),
    Row(
        "GGUF cut off in its settings",
        GGUF,
        "tokenizer PLACE/m.gguf cannot be loaded, it is cut off or damaged, ...",
        all_of(a_gguf_file(), cut("m.gguf", 1000)),
    ),
    Row(
        "GGUF of another architecture",
        GGUF,
        "tokenizer PLACE/m.gguf cannot be loaded, its architecture is olmo, only gpt2, llama, "
        "qwen2, qwen3 can be read",
        a_gguf_file("gpt2", "olmo"),
    ),
    Row(
        "GGUF without a tokenizer",
        GGUF,
        "tokenizer PLACE/m.gguf cannot be loaded, it holds no tokenizer, name another "
        "--tokenizer_name",
        a_gguf_file("tokenizer.ggml.tokens", "tokenizer.ggml.tokenz"),
    ),
    Row(
        "GGUF that lacks a tensor",
        GGUF,
        "model PLACE/m.gguf cannot be loaded, it lacks tensors, blk.0.attn_qkv.bias, it is damaged "
        "or of another type",
        a_gguf_file("blk.0.attn_qkv.bias", "blk.0.attn_qkv.bios"),
    ),
    Row(
        "GGUF without the library",
        GGUF,
        "tokenizer PLACE/m.gguf cannot be loaded, GGUF files need a library: pip install "
        "'gpt2ft[gguf]' (...)",
        a_gguf_file(),
        inside=no_gguf,
    ),
    Row(
        "adapter of a GGUF file that is gone",
        f"{TRAIN} --model_name_or_path adapter",
        "adapter is an adapter of the model m.gguf: no file PLACE/m.gguf, check the path",
        adapter("m.gguf"),
    ),
    Row(
        "folder of nothing",
        f"{TRAIN} --model_name_or_path empty",
        "tokenizer PLACE/empty cannot be loaded, ...nothing...",
        folder("empty"),
    ),
    Row(
        "LoRA of a new model",
        f"{NEW} gpt2 --lora_r 4",
        "--lora_r adapts a model that is trained already, and --model_type makes a new one, leave "
        "one of them out",
        status=2,
    ),
    Row(
        "LoRA at layers that are not there",
        f"{TRAIN} --lora_r 4 --lora_target_modules q_proj",
        "--lora_target_modules q_proj names no linear layer of GPT2LMHeadModel, there are c_attn, "
        "c_proj, c_fc, lm_head",
    ),
    Row(
        "LoRA at a tied head",
        f"{TRAIN} --lora_r 4 --lora_target_modules lm_head",
        "--lora_target_modules names lm_head, whose weight is tied to the embedding or another "
        "layer, leave it out",
    ),
    Row(
        "LoRA without peft",
        f"{TRAIN} --lora_r 4",
        "--lora_r needs a library: pip install 'gpt2ft[lora]'",
        inside=no_peft,
    ),
    Row(
        "LoRA of an adapter",
        f"{TRAIN} --lora_r 4 --model_name_or_path adapter",
        "--lora_r needs a whole model, and adapter is an adapter itself: make a whole one of it "
        "first, by --output_dir RUN --resume --merge_lora",
        adapter("model"),
    ),
    Row(
        "adapter of a model that is gone",
        f"{TRAIN} --model_name_or_path adapter",
        "adapter is an adapter of the model ./gone: no folder PLACE/gone",
        adapter("./gone"),
    ),
    Row(
        "nothing to freeze",
        f"{TRAIN} --freeze nonsense",
        "--freeze nonsense fits no parameter that is trained, there are transformer.wte.weight, "
        "transformer.wpe.weight, ...",
    ),
    Row(
        "everything frozen",
        f"{TRAIN} --freeze '*'",
        "--freeze * leaves nothing to train, name less",
    ),
    Row(
        "config.json is no JSON",
        TRAIN,
        "... PLACE/model cannot be loaded, ...config.json...",
        written("model/config.json", "nonsense"),
    ),
    Row(
        "unknown type",
        TRAIN,
        "model PLACE/model cannot be loaded, ...nonsense...",
        changed("model/config.json", model_type="nonsense"),
    ),
    Row(
        "no causal language model",
        TRAIN,
        "model PLACE/model cannot be loaded, ...T5Config...",
        changed("model/config.json", model_type="t5"),
    ),
    Row(
        "sees what it is to predict",  # and does nothing else that would show
        f"{NEW} bert --config_overrides "
        "num_hidden_layers=1,hidden_size=8,num_attention_heads=1,intermediate_size=8",
        "BertLMHeadModel sees the tokens it is to predict, use a model that is causal",
    ),
    Row(
        "code of its own",
        TRAIN,
        "model PLACE/model cannot be loaded, it wants to run code of its own (auto_map), ...",
        changed("model/config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
    ),
    Row(
        "only pickle",
        TRAIN,
        "model PLACE/model cannot be loaded, ...safetensors...",
        all_of(removed("model/model.safetensors"), written("model/pytorch_model.bin", b"\x80\x02")),
    ),
    Row(
        "weights cut off",
        TRAIN,
        "model PLACE/model cannot be loaded, ...model.safetensors...",
        cut("model/model.safetensors", 60_000),
    ),
    Row(
        "weights of 0 bytes",
        TRAIN,
        "model PLACE/model cannot be loaded, ...model.safetensors...",
        cut("model/model.safetensors", 0),
    ),
    Row(
        "tensors missing",
        TRAIN,
        "model model lacks tensors, transformer.h.0.attn.c_attn.bias, ..., it is damaged or of "
        "another type",
        tensors(lambda weights: [weights.pop(name) for name in sorted(weights)[:7]]),
    ),
    Row(
        "tensors extra",  # a layer more than config.json says: silently left out
        TRAIN,
        "model model has tensors ..., transformer.h.1.attn.c_attn.weight, ..., it is damaged or of "
        "another type",
        changed("model/config.json", n_layer=1),
    ),
    Row(
        "tensors misshapen",
        TRAIN,
        "model model has tensors of another shape, transformer.wpe.weight, it is damaged or of "
        "another type",
        changed("model/config.json", n_positions=32),
    ),
    Row("NaN in the weights", TRAIN, "...not finite...damaged...", tensors(not_a_number)),
    Row(
        "tokenizer larger than the embedding",
        TRAIN,
        "the tokenizer has 259 entries, but the model's embedding has 257: use the model's own ...",
        two_more_tokens,
    ),
    Row(
        "token outside the vocabulary",
        TRAIN,
        "the text has token id 700, but the model's embedding has 257 rows: ...",
        a_vocabulary_with_a_hole,
    ),
    Row(
        "no tokenizer",  # silently an empty one
        TRAIN,
        "tokenizer PLACE/model cannot be loaded, ...",
        removed("model/tokenizer.json", "model/tokenizer_config.json"),
    ),
    Row(
        "tokenizer cut off",
        TRAIN,
        "tokenizer PLACE/model cannot be loaded, ...",
        cut("model/tokenizer.json", 3000),
    ),
    Row(
        "no end of text",
        TRAIN,
        "the tokenizer has no end-of-text token, use --row_separator none",
        NO_SPECIAL_TOKENS,
    ),
    Row(
        "no pad token, and none to take",
        f"{TRAIN} --row_separator none",
        "; no pad token, id 0 pads",
        NO_SPECIAL_TOKENS,
        status=0,
    ),
    Row(
        "no pad token",
        TRAIN,
        "; pad token '<|endoftext|>'",
        changed("model/tokenizer_config.json", pad_token=None),
        status=0,
    ),
    Row("no such type", f"{NEW} nonsense", "no new model of type nonsense, ..."),
    Row(
        "no setting",
        f"{NEW} gpt2 --config_overrides n_layr=4",
        "no new model of type gpt2, --config_overrides n_layr is no setting of gpt2",
    ),
    Row(
        "no value",
        f"{NEW} gpt2 --config_overrides n_layer",
        "--config_overrides n_layer is no setting, write name=value",
    ),
    Row(
        "no number",
        f"{NEW} gpt2 --config_overrides n_layer=x",
        "no new model of type gpt2, ...n_layer...",
    ),
    Row(
        "fewer than no layers",  # silently none, and a crash after the first lines
        f"{NEW} gpt2 --config_overrides n_layer=-1",
        "no new model of type gpt2, ...layer...",
    ),
    Row(
        "vocabulary smaller than the bytes",
        f"{NEW} gpt2 --config_overrides vocab_size=10",
        "--config_overrides vocab_size=10 makes no tokenizer, give a whole number, at least 257",
    ),
]

FOLDERS = [
    Row("a file", f"{TRAIN} --output_dir a.txt", f"--output_dir a.txt {NO_FOLDER}"),
    Row(
        "in a file",
        f"{TRAIN} --output_dir a.txt/x",
        f"--output_dir a.txt/x {NO_FOLDER}",
    ),
    Row(
        "where nothing can be made",
        f"{TRAIN} --output_dir /proc/x",
        "--output_dir /proc/x cannot be made, /proc is not writable, name another",
        inside=no_privileges,
    ),
    Row(
        "not writable",
        TRAIN,
        "--output_dir out cannot be made, out is not writable, name another",
        folder("out", 0o555),
        inside=no_privileges,
    ),
    Row(
        "in what is not writable",
        f"{TRAIN} --output_dir locked/out",
        "--output_dir locked/out cannot be made, locked is not writable, name another",
        folder("locked", 0o555),
        inside=no_privileges,
    ),
    Row(
        "a link to nowhere",
        TRAIN,
        "--output_dir out cannot be made, out is no folder, name another",
        lambda place: (place / "out").symlink_to("nowhere"),
    ),
    Row(
        "the model itself",
        f"{TRAIN} --output_dir model",
        "--output_dir model holds the model itself, name another",
    ),
    Row(
        "something else",
        TRAIN,
        "--output_dir out holds a config.yaml that is not of a run, name another folder or "
        "replace it with --overwrite_output_dir",
        all_of(folder("out"), written("out/config.yaml", "mine: 1\n")),
    ),
    Row(
        "a link to a checkpoint",  # which was moved to another disk: silently a new run
        TRAIN,
        f"--output_dir out holds an unfinished run, {WAYS}",
        all_of(folder("out"), lambda place: (place / "out/checkpoint-4").symlink_to("elsewhere")),
    ),
    Row(
        "in use",
        TRAIN,
        "--output_dir out is in use by process 4711, wait for it or name another",
        in_use,
    ),
    Row(
        "disk too small",
        TRAIN,
        "out has 0 MiB free, saving needs ... MiB, make room or name another --output_dir",
        inside=no_space,
        began=True,
    ),
]

# Of a run that was stopped after the checkpoints 2 and 4, the last of its steps.
RESUMED = [
    Row("unfinished run", TRAIN, f"--output_dir out holds an unfinished run, {WAYS}"),
    Row(
        "finished run",
        TRAIN,
        "--output_dir out holds a finished run: name another folder, train it further with "
        "--resume and more --max_steps or --num_train_epochs, or replace it with ...",
        finished,
    ),
    Row(
        "nothing there",
        RESUME,
        "--resume found no checkpoint in PLACE/out...",
        removed("out/checkpoint-2", "out/checkpoint-4"),
    ),
    Row(
        "and --overwrite_output_dir",
        f"{RESUME} --overwrite_output_dir",
        "--resume and --overwrite_output_dir exclude each other, give one",
        status=2,
    ),
    Row(
        "without config.yaml",
        RESUME,
        "resumed from out/checkpoint-4, step 4\nall 4 steps are done; to train further, ...",
        removed("out/config.yaml"),
        status=0,
    ),
    Row(
        "no such checkpoint",
        f"{RESUME} out/checkpoint-3",
        "--resume out/checkpoint-3 is not there, there are checkpoint-4, checkpoint-2",
    ),
    Row(
        "the folder of the run",
        f"{RESUME} out",
        "--resume out is no checkpoint of a run, name one as OUTPUT_DIR/checkpoint-500",
        status=2,
    ),
    Row(
        "settings are no YAML",
        RESUME,
        "out/config.yaml is not YAML, ...",
        written("out/config.yaml", "seed: ["),
        status=2,
    ),
    Row(
        "all bad",
        RESUME,
        f"no checkpoint in out can be resumed: out/checkpoint-4/model.safetensors {DAMAGED}; "
        f"out/checkpoint-2/state.json {DAMAGED}, start anew in another --output_dir",
        all_of(
            flipped("out/checkpoint-4/model.safetensors"), flipped("out/checkpoint-2/state.json")
        ),
    ),
    Row(
        "newest bad",
        RESUME,
        f"passed over: out/checkpoint-4/optimizer.safetensors {DAMAGED}\n...\n"
        "resumed from out/checkpoint-2, step 2\n",
        flipped("out/checkpoint-4/optimizer.safetensors"),
        status=0,
    ),
    Row(
        "a link for a checkpoint",
        f"{RESUME} out/checkpoint-4",
        "out/checkpoint-4 is a symbolic link, name the folder itself",
        linked("out/checkpoint-4"),
    ),
    Row(
        "newest a link",  # silently passed over
        RESUME,
        "passed over: out/checkpoint-4 is a symbolic link...\nresumed from out/checkpoint-2, ",
        linked("out/checkpoint-4"),
        status=0,
    ),
    Row(
        "all links",
        RESUME,
        "no checkpoint in out can be resumed: out/checkpoint-4 is a symbolic link...; "
        "out/checkpoint-2 is a symbolic link..., start anew in another --output_dir",
        all_of(linked("out/checkpoint-2"), linked("out/checkpoint-4")),
    ),
    Row(
        "newer format",
        RESUME,
        "no checkpoint in out can be resumed: out/checkpoint-4 has format 7, this "
        "version reads 2, update gpt2ft; out/checkpoint-2 has format 7, ...update gpt2ft...",
        a_newer_format,
    ),
    Row("other seed", f"{RESUME} --seed 1", f"{OTHER} seed: 42 then, 1 now{UNDO}"),
    Row(
        "other batch size",
        f"{RESUME} --per_device_train_batch_size 4",
        f"{OTHER} per_device_train_batch_size: 2 then, 4 now{UNDO}",
    ),
    Row(
        "other optimizer",
        f"{RESUME} --optimizer adafactor",
        f"{OTHER} optimizer: adamw then, adafactor now; learning_rate: 5e-05 then, 0.001 now{UNDO}",
    ),
    Row(
        "other precision",
        f"{RESUME} --precision bf16",
        f"{OTHER} precision: fp32 then, bf16 now{UNDO}",
    ),
    Row(
        "other model",
        f"{RESUME} {MODEL}-x",
        f"{OTHER} model_name_or_path: ...model then, model-x now{UNDO}",
    ),
    Row(
        "other data",
        f"{RESUME} --train_file b.txt",
        f"{OTHER} the tokens of the corpus are others (train_file: ['...a.txt'] then, ['...b.txt'] "
        f"now){UNDO}",
        written("b.txt", "other words\n" * 99),
    ),
    Row(
        "fewer steps",
        f"{RESUME} --max_steps 3",
        f"{OTHER} steps: 4 then, 3 now, they may only grow{UNDO}",
    ),
    Row(
        "several others",
        f"{RESUME} --learning_rate 1 --weight_decay 0.5",
        f"{OTHER} learning_rate: 5e-05 then, 1.0 now; weight_decay: 0.0 then, 0.5 now{UNDO}",
    ),
    Row(
        "at the last step",
        RESUME,
        "resumed from out/checkpoint-4, step 4\nall 4 steps are done; to train further, ...",
        status=0,
    ),
]

GENERATED = [
    Row(
        "nothing to continue",
        MODEL,
        "nothing to continue, give -i, --web, -p TEXT or ...",
        status=2,
    ),
    Row("a page and a prompt", f"{MODEL} --web -p a", "--web opens a page, in which ...", status=2),
    Row(
        "a port without a page", f"{ASK} --port 80", "--port is for --web, add it or ...", status=2
    ),
    Row(
        "a page and JSON",
        f"{MODEL} --web --json",
        "--json cannot be combined with --web, ...",
        status=2,
    ),
    Row("a page at no address", f"{MODEL} --web --host nowhere", "cannot listen at nowhere, ..."),
    Row(
        "no model named",
        "-p a",
        "no folder in PLACE holds a finished run: name a model, for example "
        "--model_name_or_path gpt2-mini, which is built in",
        status=2,
    ),
    Row(
        "no prompt file",
        f"{MODEL} --prompt_file gone.txt",
        "gone.txt cannot be used, No such file or directory, name another or mend it",
    ),
    Row(
        "a folder of prompts",
        f"{MODEL} --prompt_file model",
        "model cannot be used, Is a directory, name another or mend it",
    ),
    Row(
        "prompts not UTF-8",
        f"{MODEL} --prompt_file p.txt",
        "--prompt_file p.txt is not UTF-8, byte 3, convert it",
        written("p.txt", b"caf\xe9\n"),
    ),
    Row(
        "no prompts",  # silently nothing
        f"{MODEL} --prompt_file p.txt",
        "--prompt_file p.txt has no prompts, write one a line",
        written("p.txt", "\n \n"),
    ),
    *(
        Row(
            f"{name} in prompts of JSON",
            f"{MODEL} --prompt_file p.jsonl",
            f"p.jsonl {says}",
            written("p.jsonl", '{"prompt": "a"}\n' + line),
        )
        for name, line, says in (
            ("half a record", '{"prompt": ', "line 2 is no JSON, ...correct it"),
            ("no prompt", '{"text": "a"}', 'line 2 has no prompt, write {"prompt": ...'),
            ("a number", "3", "line 2 has no prompt, write ..."),
            ("prompt of no string", '{"prompt": 3}', "line 2 has no prompt, write ..."),
            (
                "seed of no number",
                '{"prompt": "a", "seed": "x"}',
                "line 2 has seed 'x', give a ...",
            ),
            ("seed below 0", '{"prompt": "a", "seed": -1}', "line 2 has seed -1, give a ..."),
            ("half a character", r'{"prompt": "\ud800"}', r"line 2 has half a character, ..."),
        )
    ),
    Row(
        "no prompts of JSON",
        f"{MODEL} --prompt_file p.jsonl",
        "--prompt_file p.jsonl has no prompts, write one a line",
        written("p.jsonl", "\n"),
    ),
    Row(
        "fp16 on a CPU",
        f"{ASK} --precision fp16",
        "precision fp16 is not supported on cpu, use bf16 or fp32",
    ),
    Row("no CUDA", f"{ASK} --device cuda", "--device cuda is not there, use auto or cpu"),
    Row("unknown model", f"{ASK} {MODEL}-x", f"model-x {NO_HUB}..."),
    Row("no such folder", f"{ASK} --model_name_or_path ./mdoel", "no folder .../mdoel"),
    Row(
        "adapter of a model that is gone",
        f"{ASK} --model_name_or_path adapter",
        "adapter is an adapter of the model ./gone: no folder PLACE/gone",
        adapter("./gone"),
    ),
    Row(
        "adapter of another kind",
        f"{ASK} --model_name_or_path adapter",
        "tokenizer PLACE/adapter cannot be loaded, it is an adapter of the type IA3, not LORA",
        adapter("model", peft_type="IA3"),
    ),
    Row(
        "adapter as a pickle",
        f"{ASK} --model_name_or_path adapter",
        "adapter PLACE/adapter cannot be loaded, it is an adapter without "
        "adapter_model.safetensors, no other file is read",
        all_of(adapter("model"), removed("adapter/adapter_model.safetensors")),
    ),
    Row(
        "weights cut off",
        ASK,
        "model PLACE/model cannot be loaded, ...model.safetensors...",
        cut("model/model.safetensors", 60_000),
    ),
    Row(
        "NaN logits",
        ASK,
        "the model's logits are not finite, its weights are damaged...",
        tensors(not_a_number),
    ),
    Row(
        "NaN logits, greedy",  # silently some token
        f"{ASK} --greedy",
        "the model's logits are not finite, its weights are damaged...",
        tensors(not_a_number),
    ),
    Row(
        "token outside the vocabulary",
        f"{MODEL} {GENERATE} -p tt",
        "a prompt has token id 700, but the model's embedding has 257 rows: ...",
        a_vocabulary_with_a_hole,
    ),
    Row(
        "no tokenizer",
        ASK,
        "tokenizer PLACE/model cannot be loaded, ...",
        removed("model/tokenizer.json", "model/tokenizer_config.json"),
    ),
    Row(
        "run not finished",
        f"{GENERATE} -p a --model_name_or_path out",
        "tokenizer PLACE/out cannot be loaded, ...checkpoint-2, checkpoint-4...",
    ),
    Row(
        "prompt and no end of text",
        f"{MODEL} {GENERATE} -p ''",
        "the prompt is empty and the tokenizer has no end-of-text token...",
        NO_SPECIAL_TOKENS,
    ),
    Row("temperature 0", f"{ASK} --temperature 0", "ab...\n", status=0),
    Row("temperature close to 0", f"{ASK} --temperature 1e-300", "ab...\n", status=0),
    Row("top_k over the vocabulary", f"{ASK} --top_k 1{30 * '0'}", "ab...\n", status=0),
    Row(
        "prompt longer than the window",
        f"{ASK}{'c' * 200}",
        f"ab{'c' * 200}...\n",
        status=0,
        notes="gpt2ft: the text is longer than the model's window of 64 tokens, from there on it "
        "sees the newest 32 to 64\n",
    ),
    Row("empty prompt", f"{MODEL} {GENERATE} -p ''", "...\n", status=0),
    Row("end of input", f"{MODEL} {GENERATE} -i", "", status=0),
    Row("no end of line", f"{MODEL} {GENERATE} -i", "abc...\n\n", status=0, input=b"abc"),
    Row(
        "input not UTF-8",
        f"{MODEL} {GENERATE} -i",
        "caf\ufffd...\n\n\ufffd...\n\n",
        status=0,
        input=b"caf\xe9\n\xff\n",
    ),
    Row("nobody reads", ASK, "", inside=no_reader, status=141),
]


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A model and a text, that are as they should be."""
    place = tmp_path_factory.mktemp("original").resolve()
    tiny_gpt2(dropout=0.1).save_pretrained(place / "model")
    byte_tokenizer().save_pretrained(place / "model")
    written("a.txt", "a line of text, and another one\n" * 40)(place)
    return place


@pytest.fixture(scope="session")
def stopped(original, tmp_path_factory):
    """With a run that saved its steps 2 and 4, and was stopped then."""
    place = tmp_path_factory.mktemp("stopped").resolve() / "place"
    shutil.copytree(original, place)
    assert run("train.py", *shlex.split(TRAIN), cwd=place).returncode == 0
    unfinished(place)
    return place


@pytest.fixture
def place(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path.resolve() / "place"))


@pytest.fixture
def place_of_a_run(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path.resolve() / "place"))


def snapshot(place):
    """Everything in a folder, with where a link points and what a file holds."""

    def content(path):
        if path.is_symlink():
            return os.readlink(path)
        readable = path.is_file() and os.access(path, os.R_OK)
        return hashlib.sha256(path.read_bytes()).hexdigest() if readable else "there"

    return {str(path.relative_to(place)): content(path) for path in place.rglob("*")}


def check(script, row, place):
    """The exit status, the sentence and nothing else, and that nothing was written or lost."""
    kept = row.files(place)
    before = snapshot(place)
    done = run(
        script,
        *shlex.split(row.flags),
        cwd=place,
        input=row.input,
        env={"CUDA_VISIBLE_DEVICES": ""},
        prepare=row.inside,
    )
    after = snapshot(place)
    del kept
    assert done.returncode == row.status, done.stderr
    says = re.escape(row.says.replace("PLACE", str(place))).replace(re.escape("..."), ".*")
    touched = {name for name in before | after if before.get(name) != after.get(name)}
    if row.status in (1, 2):
        assert re.fullmatch(f"gpt2ft: error: {says}\n", done.stderr), done.stderr
        assert touched <= (BEGUN if row.began else set())
    else:
        assert done.stderr == row.notes
        assert re.search(says, done.stdout, re.DOTALL), done.stdout
        assert all(script == "train.py" and name.startswith("out") for name in touched)


def rows_of(*tables):
    return [pytest.param(row, id=row.name) for table in tables for row in table]


def usage(command, sentences):
    return [Row(flags, f"{command} {flags}", says, status=2) for flags, says in sentences.items()]


@pytest.mark.parametrize("row", rows_of(usage(f"{MODEL} {DATA} {OUT}", TRAIN_USAGE)))
def test_training_that_makes_no_sense(row, place):
    check("train.py", row, place)


@pytest.mark.parametrize("row", rows_of(CORPUS, RECORDS, CHATS, SETTINGS, MODELS, FOLDERS))
def test_training(row, place):
    check("train.py", row, place)


@pytest.mark.parametrize("row", rows_of(usage("", COMMAND_USAGE)))
def test_the_installed_command(row, place):
    check("gpt2ft", row, place)


@pytest.mark.parametrize("row", rows_of(RESUMED))
def test_resuming(row, place_of_a_run):
    check("train.py", row, place_of_a_run)


@pytest.mark.parametrize("row", rows_of(usage(ASK, GENERATE_USAGE), GENERATED))
def test_generating(row, place_of_a_run):
    check("generate.py", row, place_of_a_run)
