"""`python -m seaway.serving PARENT CONFIG`: a worker process, started by the launcher."""

import sys
from pathlib import Path

# structlog imports rich for coloured terminals when it is installed: 5 MB that no worker needs.
sys.modules["rich"] = None  # type: ignore[assignment]

from seaway.serving import worker  # noqa: E402

sys.exit(worker.main(Path(sys.argv[2]).read_bytes(), int(sys.argv[1])))
