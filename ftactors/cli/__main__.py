"""`python -m ftactors.cli`, the same as `ftactors`."""

import sys

from ftactors.cli import main

sys.exit(main())
