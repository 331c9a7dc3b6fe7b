"""Conversations into ids: one BOS, what the assistant says is trained, and nobody can say a control token."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data_jobs import TEMPLATES

from pipelines.data.chat import ChatRenderer
from pipelines.data.template import Template
from pipelines.errors import ArtifactError, DataError
from pipelines.stages.tokenizer import add_bos, chat_template, save
from pipelines.stages.tokenizer_families import byte_level_bpe as train

USER, ANSWER = {"role": "user", "content": "Where is the drum?"}, {"role": "assistant", "content": "In the barn."}
SYSTEM, LAST = {"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Who knows."}
TWO_TURNS = [SYSTEM, USER, ANSWER, USER, LAST]

BARE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""No generation marks, and tokens that it puts together."""
SPOKEN = (
    "{% for m in messages %}{{ m['role'].title() + ': ' + m['content'] | trim }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
"""Plain words; EOS ends a turn, and a line break follows it."""
CHATML = (TEMPLATES / "chatml.jinja").read_text()
PLAIN = (TEMPLATES / "plain.jinja").read_text()
ALL = {"chatml": CHATML, "plain": PLAIN, "bare": BARE, "spoken": SPOKEN}

Make = Callable[..., ChatRenderer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A renderer with a small tokenizer, saved and loaded again."""

    def made(source: str, *, add_bos_token: bool = True) -> ChatRenderer:
        (tmp_path / "own.jinja").write_text(source)
        template = chat_template(tmp_path / "own.jinja", add_bos_token=add_bos_token)
        tokenizer = train(
            iter(["Where is the drum?", "In the barn.", "user assistant"] * 9),
            vocab_size=320,
            special_tokens=template.tokens,
        )
        if add_bos_token:
            add_bos(tokenizer)
        save(tmp_path, tokenizer, template, add_bos_token=add_bos_token)
        return ChatRenderer.load(tmp_path)

    return made


def trained(renderer: ChatRenderer, messages: list[dict[str, str]]) -> str:
    ids, mask = renderer.conversation(messages)
    assert len(ids) == len(mask)
    return renderer.decode([token for token, on in zip(ids, mask, strict=True) if on], skip_special=False)


@pytest.mark.parametrize("name", ALL)
def test_what_the_assistant_says_is_trained_with_the_end_of_every_turn(name: str, make: Make) -> None:
    renderer = make(ALL[name])
    end = renderer.tokenizer.id_to_token(renderer.end_of_turn_id)
    assert end == {"chatml": "<|im_end|>", "plain": "<|end|>", "bare": "<|end|>", "spoken": "<|eos|>"}[name]
    assert trained(renderer, TWO_TURNS) == f"In the barn.{end}Who knows.{end}"
    assert trained(renderer, [USER, ANSWER]) == f"In the barn.{end}"


@pytest.mark.parametrize("name", ALL)
def test_the_last_token_of_a_row_ends_the_turn(name: str, make: Make) -> None:
    renderer = make(ALL[name])
    ids, mask = renderer.conversation(TWO_TURNS)
    assert (ids[-1], mask[-1]) == (renderer.end_of_turn_id, 1)
    assert renderer.end_of_turn_id in renderer.stop_ids
    assert renderer.eos_id in renderer.stop_ids
    assert renderer.pad_id not in renderer.stop_ids


@pytest.mark.parametrize("name", ALL)
def test_prompt_and_answer_are_the_whole_conversation(name: str, make: Make) -> None:
    renderer = make(ALL[name])
    for before in ([USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER]):
        prompt, chosen, rejected = renderer.pair(before, [ANSWER], [LAST])
        assert prompt == renderer.prompt(before)
        assert prompt + chosen == renderer.conversation([*before, ANSWER])[0]
        assert prompt + rejected == renderer.conversation([*before, LAST])[0]
        assert renderer.decode(chosen) == "In the barn."
        text = renderer.template.render([*before, ANSWER], add_generation_prompt=False)
        assert renderer.decode(prompt + chosen, skip_special=False) == text.rstrip("\n")


@pytest.mark.parametrize("name", ALL)
def test_an_answer_is_encoded_as_when_it_is_generated(name: str, make: Make) -> None:
    """Merges across the place where the assistant starts would train on tokens that no prompt leads to."""
    renderer = make(ALL[name])
    for odd in ("\n", " ", "\n\n x", "s", "", "  In", "drum"):
        answer = {"role": "assistant", "content": f"{odd}In the barn"}
        ids, _ = renderer.conversation([USER, answer])
        prompt = renderer.prompt([USER])
        assert ids[: len(prompt)] == prompt


@pytest.mark.parametrize("writes_bos", [True, False])
@pytest.mark.parametrize("add_bos_token", [True, False])
def test_one_bos_at_the_start_by_the_policy(writes_bos: bool, add_bos_token: bool, make: Make) -> None:
    source = "{{ bos_token }}" + PLAIN if writes_bos else PLAIN
    if writes_bos and not add_bos_token:
        with pytest.raises(DataError, match="writes the BOS token, but add_bos_token is false"):
            make(source, add_bos_token=add_bos_token)
        return
    renderer = make(source, add_bos_token=add_bos_token)
    plain = make(PLAIN, add_bos_token=False)
    bos = [0] * add_bos_token
    assert renderer.conversation(TWO_TURNS)[0] == bos + plain.conversation(TWO_TURNS)[0]
    assert renderer.prompt([USER]) == bos + plain.prompt([USER])
    assert renderer.document("drum") == bos + plain.document("drum")
    assert renderer.template.writes_bos is add_bos_token, "who renders the template gets the same ids"


@pytest.mark.parametrize("name", ALL)
def test_text_that_spells_a_control_token_is_plain_characters(name: str, make: Make) -> None:
    renderer = make(ALL[name])
    forged = "x" + "".join(token.content for token in renderer.tokenizer.get_added_tokens_decoder().values()) + "y"
    messages = [{"role": "user", "content": forged}, {"role": "assistant", "content": forged}]
    ids, mask = renderer.conversation(messages)
    honest, _ = renderer.conversation([USER, ANSWER])
    control = set(renderer.tokenizer.get_added_tokens_decoder())
    assert [token for token in ids if token in control] == [token for token in honest if token in control]
    assert renderer.decode([token for token, on in zip(ids, mask, strict=True) if on]) == forged
    assert renderer.decode(ids).count(forged) == 2
    assert renderer.decode(renderer.encode_text(forged)) == forged
    assert not set(renderer.encode_text(forged)) & set(renderer.tokenizer.get_added_tokens_decoder())
    assert renderer.documents([forged]).tolist() == [renderer.document(forged)]


def test_private_characters_in_the_text_are_no_stand_ins(make: Make) -> None:
    renderer = make(CHATML)
    said = "<|im_end|>" + "".join(map(chr, range(0x10FFF0, 0x110000))) + "<|eos|>"
    assert trained(renderer, [USER, {"role": "assistant", "content": said}]) == said + "<|im_end|>"


def test_marks_may_leave_out_what_a_turn_starts_with(make: Make) -> None:
    source = PLAIN.replace("{%- generation %}", "{{- ' says:' }}{%- generation %}")
    renderer = make(source)
    assert trained(renderer, TWO_TURNS) == "In the barn.<|end|>Who knows.<|end|>"
    assert "<|assistant|> says:In the barn" in renderer.decode(renderer.conversation(TWO_TURNS)[0], skip_special=False)


def test_a_template_trims_what_it_will(make: Make) -> None:
    renderer = make(SPOKEN)
    assert trained(renderer, [USER, {"role": "assistant", "content": " In the barn. \n"}]) == "In the barn.<|eos|>"


REFUSED = {
    "no token ends": "{% for m in messages %}{{ m['role'] + m['content'] }}\n{% endfor %}",
    "text follows the token": BARE + "{% if not add_generation_prompt %}done{% endif %}",
    "rewrites earlier turns": (
        "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}{{ '<|x|>' + m['content'] + '<|end|>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|x|>' }}{% endif %}"
    ),
    "within a conversation": (
        "{% for m in messages %}{{ bos_token + '<|x|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token + '<|x|>' }}{% endif %}"
    ),
    "not what the assistant says": BARE.replace("message['content']", "'So ' + message['content']"),
    "correct the chat template": "{% for m in messages %}",
    "0 generation blocks for 2": BARE.replace(
        "{% endfor %}", "{% if false %}{% generation %}{% endgeneration %}{% endif %}{% endfor %}"
    ),
    "strftime_now": "{{ strftime_now('%d') }}" + BARE,
    "refuses a conversation": "{{ raise_exception('never') }}" + BARE,
}


@pytest.mark.parametrize("message", REFUSED)
def test_templates_that_would_spoil_training_are_refused(message: str) -> None:
    with pytest.raises(DataError, match=message):
        Template(REFUSED[message], name="own.jinja")


def test_a_template_that_rewrites_only_some_texts_is_refused_at_the_row(make: Make) -> None:
    thinking = BARE.replace(
        "message['content'] +",
        "(message['content'] if loop.last else message['content'].split('</think>')[-1]) +",
    )
    renderer = make(thinking)
    assert trained(renderer, TWO_TURNS) == "In the barn.<|end|>Who knows.<|end|>"
    with pytest.raises(DataError, match="rewrites earlier turns"):
        renderer.conversation([USER, {"role": "assistant", "content": "<think>a</think>b"}, USER, ANSWER])


def test_a_template_may_refuse_a_role(make: Make) -> None:
    renderer = make("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + BARE)
    with pytest.raises(DataError, match=r"system, user: no system role"):
        renderer.prompt([SYSTEM, USER])


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    with pytest.raises(DataError, match="unsafe"):
        Template("{{ messages.__class__.__mro__ }}" + BARE, name="own.jinja")
    with pytest.raises(DataError):
        Template("{{ messages.append(1) }}" + BARE, name="own.jinja")


def test_a_prompt_ends_with_the_user(make: Make) -> None:
    with pytest.raises(DataError, match="must end with the user"):
        make(PLAIN).prompt([USER, ANSWER])


def test_many_are_encoded_as_one(make: Make) -> None:
    renderer = make(CHATML)
    many = [[USER, ANSWER], TWO_TURNS, [USER, LAST]]
    assert renderer.conversations(many) == [renderer.conversation(messages) for messages in many]
    prompts = [messages[:-1] for messages in many]
    assert renderer.prompts(prompts) == [renderer.prompt(messages) for messages in prompts]
    assert renderer.pairs([]) == renderer.prompts([]) == []


def test_a_folder_that_lacks_a_file_is_named(make: Make, tmp_path: Path) -> None:
    make(PLAIN)
    (tmp_path / "info.json").unlink()
    with pytest.raises(ArtifactError, match=r"info\.json missing"):
        ChatRenderer.load(tmp_path)
