"""What `forked.py` imports once for all the processes that it forks: the libraries of other projects, and nothing of this one."""

import gc

import datasets  # noqa: F401
import peft  # noqa: F401
import pydantic  # noqa: F401
import rensa  # noqa: F401
import rich.live
import rich.progress  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.feature_extraction.text
import sklearn.linear_model  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401
from trl import RewardTrainer, SFTTrainer  # noqa: F401

gc.freeze()  # the garbage collector of a forked process need not look through it, which would also copy its memory
