"""What a step cannot be captured for, in words: the operator, the line, and the mend."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from treadle.core.errors import TreadleError, UnsupportedModelError

__all__ = ["explained"]


@contextmanager
def explained() -> Iterator[None]:
    """Turn what fake tensors cannot follow into an error that names the operator and the mend."""
    from torch._subclasses import fake_tensor as fake

    try:
        yield
    except TreadleError:
        raise
    except fake.DataDependentOutputException as error:
        raise UnsupportedModelError(
            f"The step reads a number out of a tensor by '{error.func}'{_where(error)}, which has "
            f"no value while the step is captured; replace `.item()`, `if tensor:` and the like by "
            f"tensor operations such as torch.where."
        ) from error
    except fake.DynamicOutputShapeException as error:
        raise UnsupportedModelError(
            f"The shape of the result of '{error.func}'{_where(error)} depends on data, and a plan "
            f"needs fixed shapes; use a form of fixed size (a mask instead of an index list; for "
            f"experts, a batched implementation)."
        ) from error
    except fake.UnsupportedOperatorException as error:
        raise _without_fake_form(str(error.func)) from error
    except Exception as error:
        # A custom operator says so in words alone.
        found = re.search(r"no fake impl registered for <CustomOpDef\((.*?)\)>", str(error))
        if found is not None:
            raise _without_fake_form(found.group(1)) from error
        said = str(error).strip().splitlines()
        raise UnsupportedModelError(
            f"The step fails while it is captured{_where(error)}: {type(error).__name__}"
            f"{': ' + said[0] if said else ''}. Run it once eagerly on the same inputs: if it "
            f"fails there too, mend it; if not, replace what has no meaning without values."
        ) from error


def _without_fake_form(operator: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The operator '{operator}' says nothing of its result's shape; register a fake form with "
        f"torch.library.register_fake, or replace it."
    )


def _where(error: BaseException) -> str:
    """Return where the step was: the innermost line that is neither PyTorch's nor ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if "/torch/" not in frame.filename and "/treadle/" not in frame.filename
    ]
    own = [frame for frame in own if not frame.filename.startswith("<")]
    return f" (line {own[-1].lineno} of '{own[-1].filename}')" if own else ""
