"""Frames and requests in and out. The only package that imports Autobahn's server side."""
