// A picture file on its way to the server.

import { type Input, Refusal } from "./api";

/** What the server decodes. */
const SENT_AS_IT_IS = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
/** Photographs of phones are longer than that; the classifiers look at far fewer pixels. */
const MAX_BYTES = 2 * 1024 * 1024;
const MAX_SIDE = 1024;

const ADVICE = "Choose a PNG, JPEG, WebP, GIF or BMP file.";

function refusal(title: string, detail: string): Refusal {
  return new Refusal(0, title, detail, undefined, undefined, undefined);
}

/** The file as it is, or smaller, or in a format that the server reads. Throws a refusal if it can be none of them. */
export async function fromFile(file: File): Promise<Input> {
  const contentType = file.type || "image/png";
  if (!contentType.startsWith("image/")) {
    throw refusal("That is no picture", `This model looks at pictures, and ${file.name} is none. ${ADVICE}`);
  }
  const asItIs: Input = { body: file, contentType, fileName: file.name || "picture.png" };
  if (SENT_AS_IT_IS.includes(contentType) && file.size <= MAX_BYTES) {
    return asItIs;
  }
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(file);
  } catch {
    if (!SENT_AS_IT_IS.includes(contentType)) {
      throw refusal("That kind of picture cannot be read", `This browser cannot show ${file.name}, and the server does not take it as it is. ${ADVICE}`);
    }
    // The server says what is wrong with it.
    return asItIs;
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d")?.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const body = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  if (!body) {
    return asItIs;
  }
  const fileName = `${file.name.replace(/\.[^.]*$/, "") || "picture"}.jpg`;
  const note = `Sent as a JPEG of ${canvas.width} × ${canvas.height} pixels, made in this browser.`;
  return { body, contentType: "image/jpeg", fileName, note };
}

/** The first picture of a drop or a paste. Any file will do in a drop: the server says what is wrong with it. */
export function pictureOf(transfer: DataTransfer | null, anyFile: boolean): File | undefined {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? (anyFile ? files[0] : undefined);
}
