"""`python -m illada_lab`: the same as `illada-lab`."""

import sys

from illada_lab.cli import main

sys.exit(main())
