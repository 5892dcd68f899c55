#!/bin/sh
# Completes the root folder of the image around /usr/bin/classifyd and /usr/lib/libonnxruntime.so.*: the shared libraries
# that both need, an account without rights, configuration and models. Run in the repository.
set -eu

root=${1:?"usage: $0 ROOT"}

# The loader stands alone on its line, libraries behind an arrow.
ldd "$root/usr/bin/classifyd" "$root"/usr/lib/libonnxruntime.so.* |
    awk '$2 == "=>" && $3 == "not" { print "missing: " $1 > "/dev/stderr"; exit 1 }
         $2 == "=>" { print $3 }
         $1 ~ /^\/.*ld-linux/ { print $1 }' |
    sort -u >"$root.libraries"
while read -r library; do
    install -D --mode 755 "$library" "$root$library"
done <"$root.libraries"
rm "$root.libraries"

install -d "$root/etc/classifyd"
echo 'classifyd:x:65532:65532:classifyd:/:/usr/sbin/nologin' >"$root/etc/passwd"
echo 'classifyd:x:65532:' >"$root/etc/group"
install --mode 644 deploy/container/classifyd.toml "$root/etc/classifyd/"
cp -R models "$root/models"
chmod -R a+rX "$root"
