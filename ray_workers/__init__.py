"""Everything that runs in, or ships to, the Ray cluster; never imports Prefect."""
