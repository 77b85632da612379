"""`python -m ftcore.cli`."""

from __future__ import annotations

import sys

from ftcore.cli import main

sys.exit(main())
