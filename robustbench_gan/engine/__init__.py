"""Many cells: laid out, planned, run one by one."""
