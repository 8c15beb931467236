import subprocess
import sys

# A server thread at work on matrices while the main thread forks, as Ray does while it starts.
PROGRAM = """
import os, subprocess, threading
import fl_bench
import numpy as np

done = threading.Event()

def work():
    for _ in range(50):
        matrix = np.random.default_rng(0).normal(size=(300, 300))
        np.linalg.eigh(matrix @ matrix.T)
    done.set()

threading.Thread(target=work, daemon=True).start()
while not done.is_set():
    subprocess.run(["true"], preexec_fn=lambda: None)
os._exit(0)
"""


def test_matrix_products_survive_forks() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
