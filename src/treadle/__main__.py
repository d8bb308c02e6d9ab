"""`python -m treadle` is the command `treadle`."""

import sys

from treadle.cli import main

sys.exit(main())
