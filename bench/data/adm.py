"""The crop that the scripts of this folder and of ../parity compare with."""
import numpy as np
from PIL import Image


def center_crop_arr(pil_image, image_size):
    """The crop of ADM (openai/guided-diffusion, image_datasets.py), restated: box halving, bicubic, centre."""
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)
    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)
    arr = np.array(pil_image)
    y = (arr.shape[0] - image_size) // 2
    x = (arr.shape[1] - image_size) // 2
    return Image.fromarray(arr[y : y + image_size, x : x + image_size])


def center_crop(pil_image, height, width):
    """The same where the crop need not be square: the picture covers it in both directions."""
    while pil_image.width >= 2 * width and pil_image.height >= 2 * height:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)
    scale = max(width / pil_image.width, height / pil_image.height)
    pil_image = pil_image.resize(tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)
    y = (pil_image.height - height) // 2
    x = (pil_image.width - width) // 2
    return pil_image.crop((x, y, x + width, y + height))
