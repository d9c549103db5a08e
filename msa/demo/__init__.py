"""Generated demo data in the layouts of MVSA-Single and TESS."""
