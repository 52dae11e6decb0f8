"""What the process that starts ranks and the ranks agree on."""

RENDEZVOUS = "MEGAMODEL_RENDEZVOUS"
"""Environment variable with torch's init method; without it torchrun's own variables count."""

LOST_OTHERS = 75
"""Exit code of a rank that ends because another one is gone: not the one to blame (EX_TEMPFAIL of sysexits.h)."""
