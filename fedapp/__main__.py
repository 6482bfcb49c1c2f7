"""``python -m fedapp`` is the ``fedapp`` command."""

import sys

from fedapp.cli import main

sys.exit(main())
