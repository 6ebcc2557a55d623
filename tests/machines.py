"""Records of the machines whose branches every test of a fast path takes, whatever it runs on."""

from backbones.kernels import Machine

MACHINES = {
    "AMD with AVX-512": Machine(vendor="AuthenticAMD", avx512=True, bfloat16=True),
    "AMD with AVX2": Machine(vendor="AuthenticAMD"),
    "Intel with AVX-512": Machine(vendor="GenuineIntel", avx512=True, bfloat16=True),
    "Intel without bfloat16": Machine(vendor="GenuineIntel", avx512=True),
    "one thread": Machine(vendor="AuthenticAMD", avx512=True, bfloat16=True, threads=1),
    "without oneDNN": Machine(vendor="AuthenticAMD", avx512=True, onednn=False),
}
