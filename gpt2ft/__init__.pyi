# The public names with their types, for editors and type checkers; __init__.py loads them.

from .checkpoint.checkpoints import load_checkpoint as load_checkpoint
from .checkpoint.checkpoints import save_checkpoint as save_checkpoint
from .checkpoint.folders import find_checkpoint as find_checkpoint
from .checkpoint.manifest import CheckpointError as CheckpointError
from .data.batches import Batches as Batches
from .data.batches import Blocks as Blocks
from .data.batches import Rows as Rows
from .data.collate import CausalLMCollator as CausalLMCollator
from .data.corpus import load_corpus as load_corpus
from .data.suffixes import index_text as index_text
from .data.token_store import tokenize as tokenize
from .generation.config import Sampling as Sampling
from .generation.sampling import choose_tokens as choose_tokens
from .generation.sampling import generate_tokens as generate_tokens
from .generation.text import Continuation as Continuation
from .generation.text import generate as generate
from .generation.text import stream as stream
from .guards import undisturbed as undisturbed
from .kernels.accelerate import accelerate as accelerate
from .kernels.accelerate import keep_freed_memory as keep_freed_memory
from .loop import Data as Data
from .loop import NonFiniteError as NonFiniteError
from .loop import NoTargetsError as NoTargetsError
from .loop import StepResult as StepResult
from .loop import TrainState as TrainState
from .loop import evaluate as evaluate
from .loop import train as train
from .loop import train_step as train_step
from .loss import causal_lm_loss as causal_lm_loss
from .loss import count_targets as count_targets
from .models.loading import load_model as load_model
from .models.loading import load_tokenizer as load_tokenizer
from .models.loading import new_model as new_model
from .optim import build_optimizer as build_optimizer
from .optim import clip_and_step as clip_and_step
from .optim import lr_at as lr_at
from .optim import parameter_groups as parameter_groups
from .parallel.processes import LostProcessError as LostProcessError
from .parallel.sharding import shard as shard
from .precision import resolve_device as resolve_device
from .precision import resolve_precision as resolve_precision

__version__: str
