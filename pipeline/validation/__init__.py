"""What must hold of a case before anyone learns from it."""

import os

# Great Expectations reads it when it is imported: nothing is reported to anyone.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
