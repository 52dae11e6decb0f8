"""`python -m launcher.train CONFIG [key=value ...]`: a rank under torchrun, deepspeed or srun; else it starts them."""

import sys

from launcher.train.start import main

sys.exit(main(sys.argv[1:]))
