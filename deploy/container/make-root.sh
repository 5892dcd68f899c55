#!/bin/sh
# Completes the image's root directory around /usr/bin/classifyd and /usr/lib/libonnxruntime.so.*:
# adds the shared libraries that both need, an unprivileged account, configuration and models. Run
# it in the repository.
set -eu

root=${1:?"usage: $0 ROOT"}

# ldd prints the loader without an arrow, and libraries after one.
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
