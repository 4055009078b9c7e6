"""The work within one process: claim, handle, settle."""
