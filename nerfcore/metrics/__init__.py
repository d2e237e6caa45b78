"""Picture metrics: PSNR, SSIM and LPIPS over valid pixels, sRGB first."""

from nerfcore.metrics.lpips import Lpips, LpipsUnavailable, LpipsValue, load_lpips
from nerfcore.metrics.psnr import PSNR_CAP_DB, psnr, psnr_from_mse, psnr_linear
from nerfcore.metrics.ssim import ssim

__all__ = [
    "PSNR_CAP_DB",
    "Lpips",
    "LpipsUnavailable",
    "LpipsValue",
    "load_lpips",
    "psnr",
    "psnr_from_mse",
    "psnr_linear",
    "ssim",
]
