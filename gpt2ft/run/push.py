"""A finished run to the hub: model, tokenizer and a card, in one commit; nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.manifest import MANIFEST, read_json
from ..evaluation.run_folder import read_run_folder
from ..models.names import is_of_hub
from ..system import durable
from ..system.hub import is_offline
from ..system.signals import Stop
from ..system.terminal import print_line
from .model_card import ModelCard
from .recipe import SETTINGS_FILE, load_recipe

CARD = "README.md"
MESSAGE = "Model and card, by gpt2ft push"
# Of the files that the run wrote. Any other stays here: checkpoints, records, settings, text.
SENT = re.compile(
    r"(adapter_)?config\.json|generation_config\.json|(adapter_)?model\.safetensors"
    r"|model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.(json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|chat_template\.jinja"
)
LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Parcel:
    """What is sent, and where to."""

    name: str
    """`user/model`."""
    card: str
    files: list[Path]

    def text(self) -> str:
        """The files with their sizes."""
        sizes = {path.name: path.stat().st_size for path in self.files}
        sizes[CARD] = len(self.card.encode())
        lines = [f"  {size:>15,}  {file}" for file, size in sorted(sizes.items())]
        return "\n".join([f"to {self.name}, {sum(sizes.values()):,} bytes:", *lines])


def packed(folder: Path, name: str, license: str) -> Parcel:
    """The model in the folder of a finished run, with its card.

    Raises `ValueError` if a file is damaged, if the adapter in it belongs to a model that nobody
    else has, or the name is none that the hub takes.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} is no name on the hub, write USER/MODEL: {reason}") from error
    if "/" not in name:
        raise ValueError(f"{name} does not say whose it is, write USER/{name}")
    files = _checked_files(folder)
    settings = load_recipe(str(folder / SETTINGS_FILE))
    is_adapter = (folder / "adapter_config.json").is_file()
    if is_adapter:
        _check_base(folder)
    card = ModelCard(
        name=name,
        license=license,
        run=read_run_folder(folder),
        settings=settings,
        is_chat=_has_chat_template(folder),
        is_adapter=is_adapter,
    )
    try:
        return Parcel(name, card.text(), files)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the card cannot be made, as a record of the run in {folder} is damaged (card.json, "
            f"run.json, samples.jsonl or config.yaml): {type(error).__name__}, {error}"
        ) from error


def push(parcel: Parcel, *, private: bool, stop: Stop) -> int:
    """Send it: the repository is made if there is none; returns 0.

    Raises `ValueError` if nobody is logged in or may not write there, and `ConnectionError`.
    """
    import huggingface_hub

    if is_offline():
        raise ConnectionError("HF_HUB_OFFLINE is set: unset it to push")
    if huggingface_hub.get_token() is None:
        raise ValueError(f"nobody is logged in to the hub: {LOG_IN}")
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    api = huggingface_hub.HfApi(library_name="gpt2ft")
    place = parcel.name
    with _explained(place):
        is_new = _make_repository(api, place, private=private)
        stop.check()
        print_line("a new repository" if is_new else "a commit to the repository that is there")
        operations = [
            huggingface_hub.CommitOperationAdd(path.name, str(path)) for path in parcel.files
        ]
        operations.append(huggingface_hub.CommitOperationAdd(CARD, parcel.card.encode()))
        api.create_commit(place, operations, commit_message=MESSAGE)
    print_line(f"the model is at {api.endpoint}/{place}")
    return 0


def _make_repository(api: Any, name: str, *, private: bool) -> bool:
    """Make the repository if there is none; returns whether it is new."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(name, private=private)
        return True
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
    if private and not api.repo_info(name).private:
        raise ValueError(
            f"{name} exists and is public: name another repository, or make it private first in "
            f"its settings, {api.endpoint}/{name}/settings"
        )
    return False


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """The library's errors as ones that somebody can act on; no token is in them."""
    from huggingface_hub.errors import HfHubHTTPError

    again = "nothing of it is seen before all is sent; give the same command again"
    try:
        yield
    except HfHubHTTPError as error:
        status, said = error.response.status_code, " ".join((error.server_message or "").split())
        if status == 401:
            raise ValueError(f"the hub does not know the token: {LOG_IN}") from error
        if status in (403, 404):
            raise ValueError(
                f"the token may not write to {name}, the hub says: {said or status}; name your own "
                f"repository, or {LOG_IN}"
            ) from error
        raise ConnectionError(f"the hub answers {status}, {said or 'no more'}: {again}") from error
    except ValueError:  # ours, or of metadata that the hub refuses
        raise
    except Exception as error:  # of the library's connections
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(f"no connection to the hub, {reason}: {again}") from error


def _checked_files(folder: Path) -> list[Path]:
    """The files to send: those of the model that the run wrote, and as it wrote them.

    Raises `ValueError` if one is missing, is a link, or was changed.
    """
    written = read_json(folder / MANIFEST).get("files", {})
    files = [folder / name for name in sorted(written) if SENT.fullmatch(name)]
    for path in files:
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path} is missing, or is no file of its own")
    for path, digest in zip(files, durable.sha256(files), strict=True):
        if digest != written[path.name].get("sha256"):
            raise ValueError(f"{path} is not as the run wrote it: it was changed, or is damaged")
    return files


def _check_base(folder: Path) -> None:
    """Raise `ValueError` if an adapter's model is not on the hub: nobody could use it."""
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path", "")
    if not is_of_hub(base):
        raise ValueError(
            f"its adapter belongs to {base}, which nobody else has: make a whole model of the two "
            f"first, gpt2ft train --output_dir {folder} --resume --merge_lora"
        )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(settings.get("chat_template"))
