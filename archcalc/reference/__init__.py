"""The torch twin: an independent second opinion, built from a spec's plain mapping.

Nothing here knows archcalc's blocks or tape. Torch is imported by the modules of this package, never by the
package itself, so importing `archcalc.reference` costs nothing.
"""
