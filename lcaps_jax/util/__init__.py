"""What every part of the package may use: errors, files, settings, devices, the process."""
