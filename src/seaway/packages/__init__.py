"""What a model package says and what its bytes hash to. Nothing here opens a model or runs anything."""

from seaway.packages.manifest import safe_path, scan, verify
from seaway.packages.spec import InputSpec, OutputSpec, PackageSpec, ServingDefaults, read_spec, refuse_misnamed

__all__ = [
    "InputSpec", "OutputSpec", "PackageSpec", "ServingDefaults", "read_spec", "refuse_misnamed", "safe_path", "scan",
    "verify",
]  # fmt: skip
