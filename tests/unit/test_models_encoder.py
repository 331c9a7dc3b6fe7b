"""The encoder is BERT where its parts are BERT's, and packed documents, padding and kernels make no difference."""

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from custom_models import EncoderConfig, EncoderForMaskedLM, EncoderForSequenceClassification

torch.set_num_threads(1)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {
    "position_embedding": "learned",
    "norm": "layer_norm",
    "norm_eps": 1e-12,
    "norm_placement": "post",
    "feed_forward": "gelu_exact",
    "attention_bias": True,
    "mlp_bias": True,
    "type_vocab_size": 2,
    "embedding_norm": True,
    "head_transform": True,
    "head_bias": True,
    "pooler": True,
}
KINDS = {
    "bert": BERT,
    "llama": {"num_key_value_heads": 2, "qk_norm": True},
    "alibi, sandwich": {"position_embedding": "alibi", "norm_placement": "sandwich", "feed_forward": "geglu"},
    "relative, sliding": {
        "position_embedding": "relative_bias",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 2,
    },
    "sinusoidal": {"position_embedding": "sinusoidal", "feed_forward": "relu", "norm_placement": "post"},
}
NAMES = {  # of BERT's parameters, in the order of replacement
    "bert.embeddings.word_embeddings": "model.embed_tokens",
    "bert.embeddings.position_embeddings": "model.embed_positions",
    "bert.embeddings.token_type_embeddings": "model.embed_segments",
    "bert.embeddings.LayerNorm": "model.embed_norm",
    "bert.encoder.layer": "model.layers",
    "bert.pooler.dense": "pooler.dense",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "attention.output.LayerNorm": "post_attention_layernorm",
    "intermediate.dense": "mlp.up_proj",
    "output.dense": "mlp.down_proj",
    "output.LayerNorm": "post_feedforward_layernorm",
    "cls.predictions.transform.dense": "head_transform.dense",
    "cls.predictions.transform.LayerNorm": "head_transform.norm",
    "cls.predictions.decoder": "lm_head",
    "cls.predictions.bias": "lm_head.bias",
    "classifier": "score",
}


def named_as_ours(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in theirs.items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        found[name] = tensor
    return found


def randomised(model: nn.Module) -> nn.Module:
    """Norms of one and biases of nought would hide mistakes."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, std=0.2)
    return model


def encoder(model_class=EncoderForMaskedLM, *, attention: str = "sdpa", **changes):
    torch.manual_seed(0)
    config = EncoderConfig(**{**SMALL, "max_position_embeddings": 64, "initializer_range": 0.2, **changes})
    model = randomised(model_class(config)).eval()
    model.set_attn_implementation(attention)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, 97, (rows, length), generator=torch.Generator().manual_seed(1))


def bert(model_class, **settings):
    torch.manual_seed(0)
    config = BertConfig(
        **SMALL, max_position_embeddings=64, intermediate_size=128, initializer_range=0.2, pad_token_id=0, **settings
    )
    return randomised(model_class(config)).eval()


@pytest.mark.equality
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
def test_with_berts_parts_logits_and_gradients_are_berts(attention: str, padded: bool) -> None:
    theirs, ours = bert(BertForMaskedLM), encoder(attention=attention, **BERT, pad_token_id=0)
    ours.load_state_dict(named_as_ours(theirs.state_dict()), strict=True)
    ids = tokens(3, 12)
    mask = (torch.arange(12) < torch.tensor([12, 5, 1])[:, None]).long() if padded else torch.ones_like(ids)
    segments, labels = (torch.arange(12) > 6).long().expand_as(ids), ids.masked_fill(mask == 0, -100)
    outputs = [model(ids, mask, token_type_ids=segments, labels=labels) for model in (ours, theirs)]
    torch.testing.assert_close(*(output.logits[mask.bool()] for output in outputs), **TOLERANCE)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, **TOLERANCE)
    for output in outputs:
        output.loss.backward()
    gradients = named_as_ours({name: p.grad for name, p in theirs.named_parameters()})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert set(found) == set(gradients)
    for name, gradient in found.items():
        if gradient is not None:  # a pooler has none in either
            torch.testing.assert_close(gradient, gradients[name], **TOLERANCE, msg=name)


def test_left_padding_counts_positions_from_the_first_token() -> None:
    model, ids = encoder(**BERT), tokens(1, 5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    mask = (padded != 0).long()
    torch.testing.assert_close(model(padded, mask).logits[:, 3:], model(ids).logits, **TOLERANCE)


@pytest.mark.parametrize("pooler", [False, True])
def test_the_mean_of_all_states_is_that_of_tokens_alone(pooler: bool) -> None:
    model = encoder(EncoderForSequenceClassification, num_labels=3, pooler=pooler, classifier_pooling="mean")
    ids, mask = tokens(3, 9), (torch.arange(9) < torch.tensor([9, 4, 2])[:, None]).long()
    states = model.model(ids, mask).last_hidden_state
    for row, length in enumerate((9, 4, 2)):
        pooled = states[row, :length].mean(0)
        pooled = torch.tanh(model.pooler.dense(pooled)) if pooler else pooled
        torch.testing.assert_close(model(ids, mask).logits[row], model.score(pooled), **TOLERANCE)
        alone = model(ids[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(alone, model.score(pooled), **TOLERANCE)


@pytest.mark.equality
def test_with_berts_parts_scores_are_berts() -> None:
    theirs = bert(BertForSequenceClassification, num_labels=3)
    ours = encoder(EncoderForSequenceClassification, **BERT, num_labels=3)
    ours.load_state_dict(named_as_ours(theirs.state_dict()), strict=True)
    ids, mask = tokens(3, 9), (torch.arange(9) < torch.tensor([9, 4, 2])[:, None]).long()
    scores = [model(ids, mask, labels=torch.tensor([0, 2, 1])) for model in (ours, theirs)]
    torch.testing.assert_close(scores[0].logits, scores[1].logits, **TOLERANCE)
    torch.testing.assert_close(scores[0].loss, scores[1].loss, **TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_do_not_see_each_other(kind: str, attention: str) -> None:
    model = encoder(attention=attention, **KINDS[kind])
    documents = [tokens(1, 4), tokens(1, 7) + 0, tokens(1, 3)]
    row = torch.cat([*documents, torch.zeros(1, 2, dtype=torch.long)], dim=1)
    positions = torch.cat([*(torch.arange(d.shape[1]) for d in documents), torch.zeros(2, dtype=torch.long)])[None]
    alone = torch.cat([model(document).logits for document in documents], dim=1)
    torch.testing.assert_close(model(row, position_ids=positions).logits[:, :14], alone, **TOLERANCE)
    mask = (torch.arange(16) < 14).long()[None]
    torch.testing.assert_close(model(row, mask, position_ids=positions).logits[:, :14], alone, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_padding_and_batches_make_no_difference(kind: str) -> None:
    model, ids = encoder(**KINDS[kind]), tokens(3, 10)
    mask = (torch.arange(10) < torch.tensor([10, 6, 3])[:, None]).long()
    fused = model(ids, mask).logits
    for row, length in enumerate(mask.sum(dim=1)):
        torch.testing.assert_close(fused[row, :length], model(ids[row : row + 1, :length]).logits[0], **TOLERANCE)
    spelled = encoder(attention="eager", **KINDS[kind])(ids, mask).logits
    torch.testing.assert_close(fused[mask.bool()], spelled[mask.bool()], **TOLERANCE)


def test_a_token_sees_what_comes_after_it() -> None:
    model, ids = encoder(), tokens(1, 6)
    changed = ids.clone()
    changed[0, -1] = ids[0, -1] % 96 + 1
    assert not torch.allclose(model(ids).logits[0, 0], model(changed).logits[0, 0])


def test_logits_of_some_places_are_those_of_all() -> None:
    model, ids = encoder(**BERT), tokens(2, 8)
    places = torch.rand(2, 8, generator=torch.Generator().manual_seed(2)) < 0.4
    labels = ids.masked_fill(~places, -100)
    few, every = model(ids, labels=labels, places=places), model(ids, labels=labels)
    torch.testing.assert_close(few.logits, every.logits[places], **TOLERANCE)
    torch.testing.assert_close(few.loss, every.loss, **TOLERANCE)


def test_activation_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = encoder(dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        ids = tokens(2, 8)
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_a_second_segment_needs_an_embedding() -> None:
    with pytest.raises(ValueError, match="type_vocab_size is 0"):
        encoder()(tokens(1, 4), token_type_ids=torch.tensor([[0, 0, 1, 1]]))


def test_a_saved_encoder_reloads_bit_for_bit(tmp_path) -> None:
    model = encoder(**BERT)
    model.save_pretrained(tmp_path)
    reloaded, report = EncoderForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert reloaded.lm_head.weight is reloaded.model.embed_tokens.weight
    assert torch.equal(reloaded.eval()(tokens(2, 5)).logits, model(tokens(2, 5)).logits)
    classifier = EncoderForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    assert torch.equal(classifier.model.embed_tokens.weight, model.model.embed_tokens.weight)
