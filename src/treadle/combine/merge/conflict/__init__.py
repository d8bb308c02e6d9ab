"""Models that agree in most layers: merged there, and kept apart where they pull apart."""
