"""Maths that several ways of routing share."""
