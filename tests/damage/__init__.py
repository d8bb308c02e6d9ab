"""Inputs damaged by rule, and what every verb makes of them."""
