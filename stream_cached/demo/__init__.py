"""The demo of ``stream-cached demo``: it requests each of three streams twice over HTTP."""
