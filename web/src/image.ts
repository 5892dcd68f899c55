// Prepares an image file for the server.

import { type Input, Refusal } from "./api";

/** The formats that the server decodes. */
const SENT_AS_IT_IS = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
/** Larger files are resized: phones take larger photos, but classifiers use far fewer pixels. */
const MAX_BYTES = 2 * 1024 * 1024;
const MAX_SIDE = 1024;

const ADVICE = "Choose a PNG, JPEG, WebP, GIF or BMP file.";

function refusal(title: string, detail: string): Refusal {
  return new Refusal(0, title, detail, undefined, undefined, undefined);
}

/** Returns the file unchanged, resized, or converted to a format that the server reads. Throws a `Refusal` if none of these works. */
export async function fromFile(file: File): Promise<Input> {
  const contentType = file.type || "image/png";
  if (!contentType.startsWith("image/")) {
    throw refusal("Not an image", `This model classifies images, and ${file.name} is not one. ${ADVICE}`);
  }
  const asItIs: Input = { body: file, contentType, fileName: file.name || "image.png" };
  if (SENT_AS_IT_IS.includes(contentType) && file.size <= MAX_BYTES) {
    return asItIs;
  }
  let image: ImageBitmap;
  try {
    image = await createImageBitmap(file);
  } catch {
    if (!SENT_AS_IT_IS.includes(contentType)) {
      throw refusal("Unsupported image format", `Neither this browser nor the server can read ${file.name}. ${ADVICE}`);
    }
    // The server explains the error.
    return asItIs;
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
  const body = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  if (!body) {
    return asItIs;
  }
  const fileName = `${file.name.replace(/\.[^.]*$/, "") || "image"}.jpg`;
  const note = `Resized in this browser and sent as a JPEG of ${canvas.width} × ${canvas.height} pixels.`;
  return { body, contentType: "image/jpeg", fileName, note };
}

/** The first image of a drop or a paste. A drop falls back to any file, and the page explains the error. */
export function imageOf(transfer: DataTransfer | null, anyFile: boolean): File | undefined {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? (anyFile ? files[0] : undefined);
}
