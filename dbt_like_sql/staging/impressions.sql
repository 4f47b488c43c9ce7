select dt, user_id, pin_id, ts
from {{ ref('checked_impressions') }}
where reason is null
