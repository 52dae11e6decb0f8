"""The name by which ranks started on one machine find each other."""

RENDEZVOUS = "MEGAMODEL_RENDEZVOUS"
"""Environment variable with torch's init method; without it torchrun's own variables count."""
