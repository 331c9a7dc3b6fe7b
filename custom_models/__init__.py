"""Our own model families, registered with transformers' Auto classes on import.

Save with `model.save_pretrained(folder)` and nothing else: the configuration copies the modules of this folder that
the model needs and writes the whole `auto_map`, so that the folder loads anywhere with `trust_remote_code=True`.
In a process that has imported this package, `from_pretrained` needs no such flag: registered classes come first.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from .configuration import DecoderConfig
from .decoder import DecoderForCausalLM, DecoderModel
from .heads import DecoderForSequenceClassification

AutoConfig.register(DecoderConfig.model_type, DecoderConfig, exist_ok=True)
AutoModel.register(DecoderConfig, DecoderModel, exist_ok=True)
AutoModelForCausalLM.register(DecoderConfig, DecoderForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(DecoderConfig, DecoderForSequenceClassification, exist_ok=True)

__all__ = ["DecoderConfig", "DecoderForCausalLM", "DecoderForSequenceClassification", "DecoderModel"]
