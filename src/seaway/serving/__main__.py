"""`python -m seaway.serving PARENT CONFIG`: a worker process, started by the launcher."""

import sys
from pathlib import Path

from seaway.serving import worker

sys.exit(worker.main(Path(sys.argv[2]).read_bytes(), int(sys.argv[1])))
