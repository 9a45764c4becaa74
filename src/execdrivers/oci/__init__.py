"""`ContainerSpec` ↔ ``config.json`` of the OCI runtime specification 1.2 for Linux.

A property of the specification that has no field here is refused with its JSON pointer (RFC 6901), a property that the
specification does not know is ignored, as it demands. What OCI has no word for travels in annotations.
"""

from __future__ import annotations

from execdrivers.oci.read import from_bundle, from_oci
from execdrivers.oci.schema import OCI_VERSION
from execdrivers.oci.state import state
from execdrivers.oci.write import to_oci

__all__ = ["OCI_VERSION", "from_bundle", "from_oci", "state", "to_oci"]
