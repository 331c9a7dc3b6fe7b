"""Our own model families, registered with transformers' Auto classes on import.

Save with `model.save_pretrained(folder)` and nothing else: the configuration copies the modules of this folder that
the model needs and writes the whole `auto_map`, so that the folder loads anywhere with `trust_remote_code=True`.
In a process that has imported this package, `from_pretrained` needs no such flag: registered classes come first.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from .configuration import DecoderConfig, EncoderConfig, EncoderDecoderConfig, TransformerConfig
from .decoder import DecoderForCausalLM, DecoderModel
from .encoder import EncoderForMaskedLM, EncoderForSequenceClassification, EncoderModel
from .encoder_decoder import EncoderDecoderForConditionalGeneration, EncoderDecoderModel
from .heads import DecoderForSequenceClassification

for config in (DecoderConfig, EncoderConfig, EncoderDecoderConfig):
    AutoConfig.register(config.model_type, config, exist_ok=True)
AutoModel.register(DecoderConfig, DecoderModel, exist_ok=True)
AutoModel.register(EncoderConfig, EncoderModel, exist_ok=True)
AutoModel.register(EncoderDecoderConfig, EncoderDecoderModel, exist_ok=True)
AutoModelForCausalLM.register(DecoderConfig, DecoderForCausalLM, exist_ok=True)
AutoModelForMaskedLM.register(EncoderConfig, EncoderForMaskedLM, exist_ok=True)
AutoModelForSeq2SeqLM.register(EncoderDecoderConfig, EncoderDecoderForConditionalGeneration, exist_ok=True)
AutoModelForSequenceClassification.register(DecoderConfig, DecoderForSequenceClassification, exist_ok=True)
AutoModelForSequenceClassification.register(EncoderConfig, EncoderForSequenceClassification, exist_ok=True)

__all__ = [
    "DecoderConfig",
    "DecoderForCausalLM",
    "DecoderForSequenceClassification",
    "DecoderModel",
    "EncoderConfig",
    "EncoderDecoderConfig",
    "EncoderDecoderForConditionalGeneration",
    "EncoderDecoderModel",
    "EncoderForMaskedLM",
    "EncoderForSequenceClassification",
    "EncoderModel",
    "TransformerConfig",
]
