"""``python -m fedapp`` is the ``fedapp`` command."""

import sys

from fedapp.cli.main import main

sys.exit(main())
