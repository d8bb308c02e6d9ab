"""The action materialise: one expert of a bundle, or one mixture, as a plain model."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from treadle.core.arguments import checked
from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    PlannedTensor,
    content_hash,
    model_card,
    prepare_target,
    require_elsewhere,
    require_understood,
    side_file,
)
from treadle.core.checkpoint.described import says_bundle
from treadle.core.checkpoint.layered import (
    DENSE,
    ExpertFile,
    expert_file,
    read_layer_routing,
    require_same_file,
    says_layers,
    shares_in,
)
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.progress import track
from treadle.core.result import RESULT_FILE, Result
from treadle.core.run import recorded

__all__ = ["merge_materialise"]


@checked
def merge_materialise(
    bundle: Path,
    out: Path,
    *,
    expert: str | None = None,
    mixture: tuple[str, ...] = (),
    overwrite: bool = False,
) -> Result:
    """Write one expert of a bundle of `merge conflict`, or one mixture of them, as a plain model.

    The output is an ordinary folder, which any loader takes. Tensors pass one by one; a killed run
    goes on where it stopped.

    Args:
        bundle: Folder of the bundle.
        out: Folder to write.
        expert: Which expert, bit by bit what the bundle keeps of it; dense is the merged model.
        mixture: Shares of several experts as NAME=SHARE, such as arithmetic=0.6 json=0.4: the
            merged model and so much of what each expert changes, added in float32.
        overwrite: Replace an existing output folder once the new one is complete.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: There is no such expert, or not one of `expert` and `mixture` was given; or
            `out` exists.
        CheckpointError: The folder is no such bundle, or damaged.
        CapacityError: The disk is too small.
    """
    bundle, out = Path(bundle), Path(out)
    if not says_bundle(bundle) or not says_layers(bundle):
        raise CheckpointError(
            f"'{bundle}' is no bundle of treadle merge conflict; give one (the models of a bundle "
            f"of treadle merge glue are plain folders already, below {bundle}/experts)."
        )
    require_understood(bundle)
    routing = read_layer_routing(bundle)
    shares = _shares(expert, mixture, routing.experts)
    for name in shares:
        require_same_file(bundle, routing, name)
    require_elsewhere(out, bundle, "the bundle's")
    prepare_target(out, overwrite)
    with (
        recorded(
            "merge",
            settings={"expert": expert, "mixture": shares},
            action="materialise",
            seed=0,
            out=out,
            overwrite=None,
        ) as run,
        ExitStack() as opened,
    ):
        run.read("bundle", bundle, content_hash(bundle), "model")
        dense = opened.enter_context(CheckpointReader(bundle / DENSE))
        shapes = {name: info.shape for name, info in dense.tensors.items()}
        experts = {
            name: opened.enter_context(ExpertFile(expert_file(bundle, name), shapes))
            for name in shares
        }
        planned = [PlannedTensor(i.name, i.dtype, i.shape) for i in dense.tensors.values()]
        with CheckpointWriter(
            out, planned, parent=dense, overwrite=overwrite, fingerprint=run.fingerprint
        ) as writer:
            if writer.done:
                run.resumed(f"had written {len(writer.done)} of {len(planned)} tensors")
            for one in track(planned, "materialise", len(planned)):
                if one.name not in writer.done:
                    writer.write(one.name, _mixed(one.name, dense, experts, shares))
                    writer.mark_done([one.name])
                    dense.release(one.name)
            run.bytes["output"] = dense.num_bytes
            said = ", ".join(f"{share:g} of {name}" for name, share in shares.items())
            run.notes.append(
                f"The merged model of '{bundle}'" + (f", and {said}." if said else ".")
            )
            run.finish(writer.folder)
            manifest = run.manifest([side_file("result", RESULT_FILE)])
            writer.finish(manifest, model_card(out.name, manifest.provenance))
    return run.result


def _shares(
    expert: str | None, mixture: tuple[str, ...], known: tuple[str, ...]
) -> dict[str, float]:
    """Return expert -> share, of those that take part."""
    if (expert is None) == (not mixture):
        raise SettingsError(
            f"Say which model to write: --expert with one of {', '.join([*known, DENSE])}, or "
            f"--mixture with NAME=SHARE of several."
        )
    if expert == DENSE:
        return {}
    asked = ",".join(mixture) if expert is None else expert
    return {name: share for name, share in shares_in(asked, known).items() if share}


def _mixed(
    name: str,
    dense: CheckpointReader,
    experts: Mapping[str, ExpertFile],
    shares: Mapping[str, float],
) -> Array:
    """Return a tensor of the mixture; of one expert alone its own bits."""
    beside = dense.array(name)
    having = [one for one, file in experts.items() if name in file.names]
    if not having:
        return beside
    if shares == {having[0]: 1.0}:
        return experts[having[0]].tensor(name, beside)
    total = np.array(beside, np.float32)
    for one in having:
        change = np.asarray(experts[one].tensor(name, beside), np.float32)
        change -= np.asarray(beside, np.float32)
        total += np.float32(shares[one]) * change
    return total
