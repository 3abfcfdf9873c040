"""`python -m relic`, for torchrun and srun."""

import sys

from relic.cli import main

sys.exit(main())
