"""A chat template: rendered as transformers renders it, but so that its own tokens and what people said stay apart."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.errors import DataError

Message = Mapping[str, str]

SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
_SPELLED = re.compile(r"<\|[^|<>\s{}'\"]+\|>")
_ASK, _ANSWER = "probe question", "probe answer"


@dataclass(frozen=True)
class Piece:
    """A run of the rendering: plain text, or one of the template's own tokens."""

    text: str
    is_token: bool
    is_trained: bool


class Template:
    """A Jinja chat template, checked when it is made: DataError where no training rows could be had from it."""

    def __init__(
        self,
        source: str,
        *,
        name: str,
        tokens: Iterable[str] | None = None,
        special: Mapping[str, str] = SPECIAL,
    ):
        """`tokens` are the strings that are tokens of their own; by default those that the template spells. `special`
        are those that it has variables for."""
        self.source, self.name, self.special = source, name, special
        self.environment = _environment()
        try:
            self.compiled = self.environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"{name}:{error.lineno}: {error.message}; correct the chat template") from None
        self.has_marks = bool(re.search(r"\{%-?\s*generation\s*-?%\}", source))
        spelled = tokens if tokens is not None else (*special.values(), *self._spelled())
        self.tokens = tuple(dict.fromkeys(spelled))
        longest_first = sorted(self.tokens, key=lambda token: (-len(token), token))
        self.token_pattern = re.compile("|".join(map(re.escape, longest_first)))
        self.end_of_turn = self._find_end_of_turn()
        self._check()

    @property
    def writes_bos(self) -> bool:
        """Whether a rendering starts with the BOS token."""
        return self.render(_probe(1), add_generation_prompt=True).startswith(self.special["bos_token"])

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The same string as transformers' `apply_chat_template` gives."""
        return self._render(messages, add_generation_prompt, marks=("", ""))

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """A conversation up to its last end of turn, or a prompt up to where the assistant starts to speak.

        Without BOS. A cut stands wherever an assistant's turn starts, as it does when the model is asked for one.
        """
        said = _Said(self, messages)
        asks = messages[-1]["role"] != "assistant"
        whole, marked_from = said.whole(add_generation_prompt=asks)
        pieces: list[Piece] = []
        done = 0
        for number, position in enumerate(i for i, message in enumerate(messages) if message["role"] == "assistant"):
            begin, end = said.turn(whole, position)
            trained = max(begin, marked_from[number]) if self.has_marks else begin
            pieces += said.split(whole[done:begin], is_trained=False)
            pieces += said.split(whole[begin:trained], is_trained=False)
            pieces += said.split(whole[trained:end], is_trained=True)
            done = end
        return pieces + (said.split(whole[done:], is_trained=False) if asks else [])

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, marks: tuple[str, str]) -> str:
        self.environment.generation_marks = marks  # type: ignore[attr-defined]
        try:
            return self.compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(f"{self.name}: the chat template refuses a conversation of {roles}: {error}") from None

    def _spelled(self) -> list[str]:
        """Tokens in the source, and those that it puts together: in the order in which they first stand there."""
        rendered = self._render(_probe(2), True, ("", ""))
        try:
            system: Message = {"role": "system", "content": _ASK}
            rendered += self._render([system, *_probe(1)], False, ("", ""))
        except DataError:
            pass  # Many templates know no system turn.
        found = dict.fromkeys(_SPELLED.findall(self.source) + _SPELLED.findall(rendered))
        return [token for token in found if token not in self.special.values()]

    def _find_end_of_turn(self) -> str:
        rendered = self._render(_probe(1), False, ("", ""))
        after = rendered.rpartition(_ANSWER)[2]
        found = self.token_pattern.match(after.lstrip())
        if not found:
            raise DataError(
                f"{self.name}: no token ends an assistant's turn, so a model would never learn to stop; "
                "write {{ eos_token }} or a token like <|end|> after the assistant's content"
            )
        if after.lstrip()[found.end() :].strip():
            raise DataError(f"{self.name}: text follows the token that ends the assistant's last turn; remove it")
        return found[0]

    def _check(self) -> None:
        whole = self.render(_probe(2), add_generation_prompt=False)
        if self.special["bos_token"] != self.special["eos_token"] and self.special["bos_token"] in whole[1:]:
            raise DataError(f"{self.name}: writes the BOS token within a conversation; write it once, at its start")
        trained = [piece for piece in self.pieces(_probe(2)) if piece.is_trained]
        said = "".join("|" if piece.is_token else piece.text.strip() for piece in trained)
        if said.strip("|") != f"{_ANSWER} 0|{_ANSWER} 1":
            raise DataError(
                f"{self.name}: what is to be trained is not what the assistant says but {said!r}; "
                "put {% generation %} and {% endgeneration %} around its content and the token that ends its turn"
            )


class _Said:
    """The messages of one conversation, with stand-ins for what they say that spells a token of the template."""

    def __init__(self, template: Template, messages: Sequence[Message]):
        self.template = template
        text = "\n".join(message["content"] for message in messages)
        spelled = [token for token in template.tokens if token in text]
        unused = (character for character in map(chr, range(0x10FFFF, 0xF0000, -1)) if character not in text)
        self.start, self.end, *characters = islice(unused, 2 + len(spelled))
        # The longest first: a token may hold another one.
        self.stand_ins = dict(zip(sorted(spelled, key=len, reverse=True), characters, strict=True))
        self.messages = [{"role": m["role"], "content": self._hidden(m["content"])} for m in messages]

    def whole(self, *, add_generation_prompt: bool) -> tuple[str, list[int]]:
        """The rendering without BOS, and where in it each generation mark stands."""
        marked = self.template._render(self.messages, add_generation_prompt, (self.start, self.end))
        marked = marked.removeprefix(self.template.special["bos_token"])
        first, *others = marked.replace(self.end, "").split(self.start)
        positions = [len(first)]
        for other in others:
            positions.append(positions[-1] + len(other))
        assistants = sum(message["role"] == "assistant" for message in self.messages)
        if self.template.has_marks and len(others) != assistants:
            raise DataError(
                f"{self.template.name}: {len(others)} generation blocks for {assistants} assistant turns; "
                "put one around each turn's content"
            )
        return first + "".join(others), positions

    def turn(self, whole: str, position: int) -> tuple[int, int]:
        """From where the assistant starts to speak to behind its end of turn, in characters."""
        before = self._prefix(position, add_generation_prompt=True)
        is_last = position + 1 == len(self.messages)
        after = whole if is_last else self._prefix(position + 1, add_generation_prompt=False)
        end = after.rfind(self.template.end_of_turn)
        # What follows the last end of turn may be missing or there: it is not used.
        after = after[: end + len(self.template.end_of_turn)]
        if not whole.startswith(before) or not whole.startswith(after) or len(after) <= len(before):
            raise DataError(
                f"{self.template.name}: rewrites earlier turns when a later one is added, so a model would be trained "
                "on other text than it is asked with; use a template that only appends"
            )
        return len(before), len(after)

    def split(self, text: str, *, is_trained: bool) -> list[Piece]:
        pieces: list[Piece] = []
        done = 0
        for found in self.template.token_pattern.finditer(text):
            pieces.append(Piece(self._shown(text[done : found.start()]), False, is_trained))
            pieces.append(Piece(found[0], True, is_trained))
            done = found.end()
        pieces.append(Piece(self._shown(text[done:]), False, is_trained))
        return [piece for piece in pieces if piece.text]

    def _prefix(self, count: int, *, add_generation_prompt: bool) -> str:
        text = self.template._render(self.messages[:count], add_generation_prompt, ("", ""))
        return text.removeprefix(self.template.special["bos_token"])

    def _hidden(self, text: str) -> str:
        for token, character in self.stand_ins.items():
            text = text.replace(token, character)
        return text

    def _shown(self, text: str) -> str:
        for token, character in self.stand_ins.items():
            text = text.replace(character, token)
        return text


def _probe(turns: int) -> list[Message]:
    """A conversation that shows what a template does."""
    messages: list[Message] = []
    for turn in range(turns):
        number = f" {turn}" if turns > 1 else ""
        messages.append({"role": "user", "content": _ASK + number})
        messages.append({"role": "assistant", "content": _ANSWER + number})
    return messages


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` puts marks around what it holds."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        start, end = self.environment.generation_marks  # type: ignore[attr-defined]
        return start + caller() + end


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up, but for the clock: rows must not depend on the day on which they are made."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.extend(generation_marks=("", ""))
    return environment
