"""What a run is: its settings, how they are loaded, and its random seeds. Must never import an ML library."""

from configs.errors import UserError
from configs.loading import load_config
from configs.schema import RunConfig
from configs.seeds import derive_seed

__all__ = ["RunConfig", "UserError", "derive_seed", "load_config"]
