#!/bin/sh
# Deploy hook of certbot: copies a renewed certificate to the gateway's directory and reloads the
# gateway. Install it in /etc/letsencrypt/renewal-hooks/deploy/. certbot sets RENEWED_LINEAGE.
set -eu

to=${SEALGATE_TLS:-/etc/sealgate/tls}
group=${SEALGATE_GROUP:-sealgate}
reload=${SEALGATE_RELOAD:-systemctl reload sealgate}

umask 027
mkdir -p "$to"
for name in fullchain.pem privkey.pem; do
    # Write a temporary file and rename it: a reader sees the old file or the new one, never a part.
    new=$(mktemp "$to/.$name.XXXXXX")
    cat "$RENEWED_LINEAGE/$name" >"$new"
    chgrp "$group" "$new"
    chmod 640 "$new"
    mv "$new" "$to/$name"
done
$reload
