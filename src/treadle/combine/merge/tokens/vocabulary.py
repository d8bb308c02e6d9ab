"""Models with different tokenizers: one vocabulary, and embeddings read in its order.

Rows behind the last token are kept: a model whose embedding is padded stays padded.
"""

import filecmp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.inputs.sources import TensorSource
from treadle.combine.merge.recipe.grammar import ModelRef, TokenizerRequest, TokenSource
from treadle.combine.merge.tokens.lenders import Lender, require_rows
from treadle.combine.merge.tokens.numbering import differing_ids
from treadle.combine.merge.tokens.permuted import MEAN, OWN_MEAN, ZERO, Permuted
from treadle.combine.merge.tokens.templates import chosen_template
from treadle.combine.merge.tokens.tokenizer import Tokenizer, read_json
from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import CheckpointError, SettingsError

__all__ = ["Permuted", "Vocabulary", "plan"]

Ids = npt.NDArray[np.int64]
Config = Mapping[str, Any]  # Any: JSON values of config.json

_GENERATION = "generation_config.json"


class Vocabulary:
    """The output's tokens, and where each model has its row of them.

    Attributes:
        num_rows: Rows of the output's embedding, padding among them.
        num_tokens: One more than the largest id of a token.
        permutations: [models, num_rows] output row -> the model's row, or -1.
    """

    def __init__(
        self,
        models: Sequence["_Vocab"],
        base: int | None,
        tokenizer: Tokenizer,
        owner: int,
        request: TokenizerRequest,
        template: str | None,
    ) -> None:
        self._models, self._base, self._tokenizer = models, base, tokenizer
        self._owner, self._template = owner, template
        self._index = {model.ref: index for index, model in enumerate(models)}
        self.num_tokens = tokenizer.num_ids
        multiple = request.pad_to_multiple_of or 1
        self.num_rows = -(-max(self.num_tokens, models[owner].num_rows) // multiple) * multiple
        self.permutations = _permutations(models, tokenizer, self.num_rows)
        self._donors, self._donor_rows = self._defaults()
        self._forced = np.zeros(self.num_rows, np.bool_)
        for token, source in request.tokens.items():
            self._apply(token, source)

    def permuted(
        self, model: ModelRef, name: str, sources: Mapping[ModelRef, TensorSource | None]
    ) -> TensorSource:
        """Return a model's tensor in the rows of the output; the same source if they agree.

        Args:
            model: The model.
            name: The tensor, whose first dimension is the vocabulary; for errors.
            sources: The tensor in each model that has it.

        Raises:
            CheckpointError: A model that rows come from lacks the tensor, or its shape differs.
        """
        own = self._index[model]
        has_own = (self.permutations[own] >= 0) & ~self._forced
        origins = np.where(has_own, own, self._donors)
        rows = np.where(has_own, self.permutations[own], self._donor_rows)
        needed = set(np.unique(origins[origins >= 0]).tolist()) | {own}
        if MEAN in origins:
            means = self.permutations[:, origins == MEAN] >= 0
            needed |= set(np.flatnonzero(means.any(axis=1)).tolist())
        found = {index: self._source(index, name, sources) for index in sorted(needed)}
        self._require_one_width(name, found)
        is_same = self.num_rows == self._models[own].num_rows and bool(
            np.all(origins == own) and np.array_equal(rows, np.arange(self.num_rows))
        )
        if is_same:
            return found[own]
        return Permuted(own, found, origins, rows, self.permutations, self.num_tokens)

    def orphans(self) -> list[str]:
        """Return the tokens that start from zeros because no model has a row for them."""
        is_orphan = (self._donors == ZERO) & np.all(self.permutations < 0, axis=0)
        rows = set(np.flatnonzero(is_orphan).tolist())
        return [token for token, number in self._tokenizer.ids.items() if number in rows]

    def config_changes(self, config: Config) -> dict[str, Any]:  # Any: JSON values
        """Return the entries of the base's config.json that differ in the output."""
        changes = self._moved_ids(config)
        text = config.get("text_config")
        if isinstance(text, Mapping) and "vocab_size" not in config:
            inner = {**text, **self._moved_ids(text), "vocab_size": self.num_rows}
            return {**changes, "text_config": inner}
        return {**changes, "vocab_size": self.num_rows}

    def write(self, folder: Path) -> None:
        """Write the tokenizer's files, and the base's generation settings with the ids moved."""
        self._tokenizer.write(folder, self._template)
        generation = read_json(self._first.folder / _GENERATION)
        if changes := self._moved_ids(generation):
            write_text(folder / _GENERATION, {**generation, **changes})

    @property
    def _first(self) -> "_Vocab":
        """The model that config and ids come from."""
        return self._models[self._base or 0]

    def _moved_ids(self, config: Config) -> dict[str, Any]:  # Any: JSON values
        """Return the special tokens' ids that are others in the output."""
        tokens = {number: token for token, number in self._first.tokenizer.ids.items()}
        own = read_json(self._models[self._owner].folder / "config.json")

        def moved(key: str, number: int) -> Any:  # Any: as the other config has it
            return self._tokenizer.ids.get(tokens.get(number, ""), own.get(key))

        changes: dict[str, Any] = {}  # Any: ids, or lists of them
        for key, value in config.items():
            if key.endswith("_token_id") and isinstance(value, int):
                changes[key] = moved(key, value)
            elif key.endswith("_token_id") and isinstance(value, list):
                found = [moved(key, number) for number in value]
                changes[key] = [number for number in found if isinstance(number, int)]
        return {key: value for key, value in changes.items() if value != config[key]}

    def _defaults(self) -> tuple[Ids, Ids]:
        """Return the model (or MEAN, ZERO, OWN_MEAN) and its row that stand in for each row."""
        has_row = self.permutations >= 0
        counts = has_row.sum(axis=0)
        numbers = np.arange(self.num_rows)
        donors = np.where(counts > 1, MEAN, np.where(numbers < self.num_tokens, ZERO, OWN_MEAN))
        donors = np.where(counts == 1, has_row.argmax(axis=0), donors)
        if self._base is not None:
            donors = np.where(has_row[self._base], self._base, donors)
        is_padding = numbers >= self.num_tokens
        donors = np.where(is_padding & has_row[self._owner], self._owner, donors)
        rows = self.permutations[np.maximum(donors, 0), numbers]
        return donors.astype(np.int64), rows

    def _apply(self, token: str, source: TokenSource) -> None:
        """Let a token's row come from where the recipe says."""
        number = self._tokenizer.ids[token]
        self._forced[number] = source.force
        if source.kind == "zero":
            self._donors[number] = ZERO
        if source.model is None:
            return
        if source.model not in self._index:
            raise SettingsError(
                f"Token {token!r} comes from '{source.model}', which is no model of the merge; "
                f"name one of: {', '.join(str(ref) for ref in self._index)}."
            )
        donor = self._index[source.model]
        model = self._models[donor]
        row = int(self.permutations[donor, number])
        wanted = token if source.token is None else source.token
        if source.token_id is not None:
            row = source.token_id
        elif source.token is not None:
            row = model.tokenizer.ids.get(source.token, -1)
        if not 0 <= row < model.num_rows:
            what = f"id {source.token_id}" if source.token_id is not None else f"token {wanted!r}"
            raise SettingsError(
                f"Token {token!r} takes the row of {what} of '{source.model}', which has none "
                f"among its {model.num_rows} rows; choose another source."
            )
        self._donors[number], self._donor_rows[number] = donor, row

    def _source(
        self, index: int, name: str, sources: Mapping[ModelRef, TensorSource | None]
    ) -> TensorSource:
        model = self._models[index]
        found = sources.get(model.ref)
        if found is None:
            raise CheckpointError(
                f"'{model.ref}' has no tensor '{name}', which rows of the output's vocabulary come "
                f"from; merge models of one architecture."
            )
        if found.shape[0] < model.num_rows:
            raise CheckpointError(
                f"Tensor '{name}' of '{model.ref}' has {found.shape[0]} rows, but its vocabulary "
                f"has {model.num_rows}; repair the model, or leave it out."
            )
        return found

    def _require_one_width(self, name: str, sources: Mapping[int, TensorSource]) -> None:
        shapes = {index: list(source.shape[1:]) for index, source in sources.items()}
        if any(shape != next(iter(shapes.values())) for shape in shapes.values()):
            found = ", ".join(f"{shape} in '{self._models[i].ref}'" for i, shape in shapes.items())
            raise CheckpointError(
                f"The rows of tensor '{name}' have shape {found}; merge models of one size."
            )


class _Vocab(NamedTuple):
    """One model's vocabulary."""

    ref: ModelRef
    folder: Path
    tokenizer: Tokenizer
    num_rows: int


def plan(
    request: TokenizerRequest | None,
    lenders: Sequence[Lender],
    base: int | None,
    chat_template: str | None = None,
    option: str = "--tokenizer ",
) -> tuple[Vocabulary | None, str | None]:
    """Return the output's vocabulary, or None if every row stays in its place, and a note.

    Args:
        request: Which tokenizer the output has; None for the base's, with rows as they are.
        lenders: The models, in their order.
        base: Which of them is the base; without one, the first lends its tokenizer and config,
            and a token that several others have starts from the mean of them.
        chat_template: "auto", a model's name, or a jinja text; None for the tokenizer's own.
        option: How the user asks for a tokenizer, for messages.

    Raises:
        CheckpointError: Vocabularies differ in size and no tokenizer was requested, or a tokenizer
            is missing or damaged.
        SettingsError: The request names a model that is none of these, or a row that is missing.
    """
    if request is None and lenders[base or 0].tokens is not None:
        request = TokenizerRequest("base")  # its config and tokenizer are another's than its files
    if request is None and chat_template is None and not any(one.rows for one in lenders):
        return None, None  # models of images or sounds
    num_rows = require_rows(lenders)
    if request is not None:
        return _aligned(request, lenders, num_rows, base, chat_template)
    _require_equal(lenders, num_rows, option)
    folders = [one.tokenizer_folder for one in lenders]
    if chat_template is None and _have_one_file(folders):
        return None, None
    tokenizers = [_tokenizer_or_none(folder) for folder in folders]
    refs = [str(one.ref) for one in lenders]
    note = differing_ids(refs, tokenizers, num_rows[0], option)
    if chat_template is None:
        return None, note
    first = tokenizers[base or 0] or Tokenizer(folders[base or 0])
    template = chosen_template(chat_template, refs, tokenizers)
    # As every row stays in its place, all models get the base's tokenizer.
    models = [
        _Vocab(one.ref, one.reader.folder, first, rows)
        for one, rows in zip(lenders, num_rows, strict=True)
    ]
    plain = TokenizerRequest("base")
    return Vocabulary(models, base, first, base or 0, plain, template), note


def _aligned(
    request: TokenizerRequest,
    lenders: Sequence[Lender],
    num_rows: Sequence[int],
    base: int | None,
    chat_template: str | None,
) -> tuple[Vocabulary, str | None]:
    tokenizers = _shared([one.tokenizer_folder for one in lenders])
    models = [
        _Vocab(one.ref, one.reader.folder, tokenizer, rows)
        for one, tokenizer, rows in zip(lenders, tokenizers, num_rows, strict=True)
    ]
    owner = _owner(request.source, models, base or 0)
    others = [model.tokenizer for index, model in enumerate(models) if index != owner]
    chosen = models[owner].tokenizer
    is_union = request.source == "union" and any(other is not chosen for other in others)
    new = [token for token in request.tokens if token not in chosen.ids]
    tokenizer = chosen.extended(others if is_union else [], new) if is_union or new else chosen
    template = None
    if chat_template is not None:
        names = [str(model.ref) for model in models]
        template = chosen_template(chat_template, names, [model.tokenizer for model in models])
    found = Vocabulary(models, base, tokenizer, owner, request, template)
    asked = {token for token, source in request.tokens.items() if source.kind == "zero"}
    return found, _note([token for token in found.orphans() if token not in asked])


def _owner(source: str | ModelRef, models: Sequence[_Vocab], base: int) -> int:
    """Return the model whose tokenizer the output has, or extends."""
    if source in ("union", "base"):
        return base
    for index, model in enumerate(models):
        if source in (model.ref, model.ref.path):
            return index
    raise SettingsError(
        f"The tokenizer's source '{source}' is no model of the merge; choose one of: union, base, "
        f"{', '.join(str(model.ref) for model in models)}."
    )


def _shared(folders: Sequence[Path]) -> list[Tokenizer]:
    """Return the tokenizers; equal ones are one object, so that rows are looked up once."""
    found: list[Tokenizer] = []
    for folder in folders:
        tokenizer = Tokenizer(folder)
        equal = (old for old in found if old.document == tokenizer.document)
        found.append(next(equal, tokenizer))
    return found


def _have_one_file(folders: Sequence[Path]) -> bool:
    """Say whether all tokenizer files are equal byte by byte, which is quicker than to parse."""
    files = [folder / "tokenizer.json" for folder in folders]
    return all(file.is_file() and filecmp.cmp(files[0], file, shallow=False) for file in files)


def _permutations(models: Sequence[_Vocab], tokenizer: Tokenizer, num_rows: int) -> Ids:
    tokens = list(tokenizer.ids)
    ids = np.fromiter(tokenizer.ids.values(), np.int64, len(tokens))
    is_token = np.zeros(num_rows, np.bool_)
    is_token[ids] = True
    looked_up: dict[int, Ids] = {}
    permutations = np.full((len(models), num_rows), -1, np.int64)
    for model, permutation in zip(models, permutations, strict=True):
        own = model.tokenizer.ids
        key = id(own)
        if key not in looked_up:
            looked_up[key] = np.fromiter((own.get(token, -1) for token in tokens), np.int64)
        permutation[ids] = np.where(looked_up[key] < model.num_rows, looked_up[key], -1)
        # A row without a token stays where it is, if it has none in the model either.
        is_free = ~is_token
        is_free[model.num_rows :] = False
        taken = np.fromiter(own.values(), np.int64, len(own))
        is_free[taken[taken < num_rows]] = False
        permutation[is_free] = np.flatnonzero(is_free)
    return permutations


def _require_equal(lenders: Sequence[Lender], num_rows: Sequence[int], option: str) -> None:
    for one, rows in zip(lenders, num_rows, strict=True):
        if rows != num_rows[0]:
            raise CheckpointError(
                f"The vocabularies differ: '{lenders[0].ref}' has {num_rows[0]} rows of embeddings "
                f"and '{one.ref}' has {rows}; give {option}union to keep the tokens of all models, "
                f"or {option}base for the base's."
            )


def _tokenizer_or_none(folder: Path) -> Tokenizer | None:
    return Tokenizer(folder) if (folder / "tokenizer.json").is_file() else None


def _note(orphans: Sequence[str]) -> str | None:
    if not orphans:
        return None
    some = ", ".join(repr(token) for token in orphans[:5])
    start = "1 token starts" if len(orphans) == 1 else f"{len(orphans)} tokens start"
    them = "it" if len(orphans) == 1 else "them"
    return f"{start} from zeros, as no model has a row for {them}: {some}."
