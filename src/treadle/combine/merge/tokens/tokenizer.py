"""tokenizer.json as data: what its tokens are, one with the tokens of others, and writing it."""

import copy
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treadle.core.checkpoint.described import read_object
from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import CheckpointError, UnsupportedModelError

__all__ = ["Tokenizer", "read_json", "vocabulary_of"]

_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_TEMPLATE = "chat_template.jinja"
# What else belongs to a tokenizer; a union keeps the base's own words and merges in all of them.
_COMPANIONS = ("special_tokens_map.json", "vocab*", "merges*", "*.model", "*.tiktoken")
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
_SETTINGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")

Json = dict[str, Any]  # Any: JSON values


class Tokenizer:
    """The tokenizer of a model folder.

    Attributes:
        folder: The folder.
        ids: Token -> id, of the model's own words and of the added tokens.

    Raises:
        CheckpointError: There is no tokenizer.json, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / _FILE).is_file():
            raise CheckpointError(
                f"{folder} has no {_FILE}, so its tokens are unknown; write one with "
                f"transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
            )
        self.document = read_json(folder / _FILE)
        self._new: list[Json] = []
        """Entries of added tokens that the folder's own file does not have."""
        try:
            self.ids = self._own_words() | {
                str(entry["content"]): int(entry["id"]) for entry in self._added()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / _FILE} is no tokenizer ({error!r}); copy or download it again."
            ) from error
        self._next = 1 + max(self.ids.values(), default=-1)

    @property
    def num_ids(self) -> int:
        """One more than the largest id."""
        return self._next

    @property
    def template(self) -> str | None:
        """The chat template, wherever transformers has put it."""
        file = self.folder / _TEMPLATE
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = read_json(self.folder / _CONFIG).get("chat_template")
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
        return found if isinstance(found, str) and found.strip() else None

    def added(self) -> dict[str, Json]:
        """Return the settings of added tokens, by token."""
        return {
            entry["content"]: {key: entry[key] for key in _SETTINGS if key in entry}
            for entry in self._added()
        }

    def extended(self, others: Iterable["Tokenizer"], tokens: Iterable[str]) -> "Tokenizer":
        """Return this tokenizer with the tokens of others, and then bare tokens, behind its own.

        A token that another one treats as special, or else as added, is so here as well; the
        first that adds a token decides its settings.
        """
        result = copy.copy(self)
        result.ids, result._new, result._next = dict(self.ids), [], self.num_ids
        settings = self.added()
        for other in others:
            added = other.added()
            for token in sorted(other.ids, key=other.ids.__getitem__):
                if token not in result.ids or (token in added and token not in settings):
                    result._append(token, added.get(token, {}))
                    settings[token] = added.get(token, {})
        for token in tokens:
            if token not in result.ids:
                result._append(token, {})
        return result

    def write(self, folder: Path, template: str | None) -> None:
        """Write the tokenizer's files; `template` takes the place of its chat template."""
        for pattern in _COMPANIONS:
            for file in sorted(self.folder.glob(pattern)):
                shutil.copyfile(file, folder / file.name)
        if self._new:
            text = json.dumps(self._extended_document(), ensure_ascii=False, indent=2)
            write_text(folder / _FILE, text)
        else:
            shutil.copyfile(self.folder / _FILE, folder / _FILE)
        self._write_companions(folder)
        template = self.template if template is None else template
        if template is not None:
            write_text(folder / _TEMPLATE, template)

    def _write_companions(self, folder: Path) -> None:
        """Write the files that repeat parts of tokenizer.json, where the model has them."""
        if (self.folder / _ADDED).is_file():
            ids = read_json(self.folder / _ADDED)
            write_text(folder / _ADDED, ids | {e["content"]: e["id"] for e in self._new})
        if (self.folder / _CONFIG).is_file():
            config = read_json(self.folder / _CONFIG)
            # The template has a file of its own, as transformers writes it since version 5.
            config.pop("chat_template", None)
            if "added_tokens_decoder" in config:
                for entry in self._new:
                    found = {key: value for key, value in entry.items() if key != "id"}
                    config["added_tokens_decoder"][str(entry["id"])] = found
            write_text(folder / _CONFIG, config)

    def _own_words(self) -> dict[str, int]:
        vocab = self.document["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: pairs of a word and its score, numbered in order
            return {str(word): index for index, (word, _) in enumerate(vocab)}
        return {str(word): int(index) for word, index in vocab.items()}

    def _added(self) -> list[Json]:
        found: list[Json] = self.document.get("added_tokens") or []
        return found

    def _append(self, token: str, settings: Json) -> None:
        number = self.ids.get(token, self._next)
        self._next = max(self._next, number + 1)
        self.ids[token] = number
        plain = {"id": number, "content": token, **_PLAIN, "special": False}
        self._new.append(plain | settings)

    def _extended_document(self) -> Json:
        model = dict(self.document["model"])
        # The tokenizers library numbers an added token itself, behind the last one, unless it is
        # also a word of the model; where ids have holes, that number would not be ours.
        if len(self.ids) != self._next:
            if isinstance(model["vocab"], list):
                raise UnsupportedModelError(
                    f"The ids in {self.folder / _FILE} have holes, and tokens cannot be added to "
                    f"such a Unigram vocabulary; choose another base, or a tokenizer of one model."
                )
            model["vocab"] = model["vocab"] | {e["content"]: e["id"] for e in self._new}
        added = sorted([*self._added(), *self._new], key=lambda entry: int(entry["id"]))
        return {**self.document, "added_tokens": added, "model": model}


def read_json(file: Path) -> Json:
    """Return a JSON object; an empty one if there is no such file.

    Raises:
        CheckpointError: The file holds something else.
    """
    return read_object(file) if file.is_file() else {}


def vocabulary_of(folder: Path) -> dict[str, int] | None:
    """Return the tokens of a model folder and their ids, or None without a tokenizer.json."""
    return Tokenizer(folder).ids if (folder / _FILE).is_file() else None
