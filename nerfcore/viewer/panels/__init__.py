"""The page's panels, one a module: each builds its controls and acts on a client's view."""
