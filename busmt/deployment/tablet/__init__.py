"""The tablet app: its source (src/), lock file and the built copy (app/) that `busmt export` writes out."""
