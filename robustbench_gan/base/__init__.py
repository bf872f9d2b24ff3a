"""What any program needs: errors, files, digests, progress, processes, the ends of runs; nothing of attacks."""
