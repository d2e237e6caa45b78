"""Films: camera paths, presets of them, and rendering them to MP4."""
