"""Demo data the project makes itself, in the layouts of MVSA-Single and TESS."""
