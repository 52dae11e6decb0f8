"""`python -m launcher.train CONFIG [key=value ...]`: a rank under torchrun or srun; alone, it starts the ranks."""

import sys

from launcher.train.start import main

sys.exit(main(sys.argv[1:]))
